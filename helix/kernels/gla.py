"""Gated linear attention: a matrix state that decays per key channel.

    S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T        y_t = S_t^T (q_t / sqrt(K))

Dims: B batch, T time, H heads, K key width, V value width, n chunks, C tokens of a chunk.
Source: Yang et al. 2023, arXiv:2312.06635, section 4.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from helix.kernels.chunks import (
    chunk_length,
    document_reach,
    merge_blocks,
    scan_dtype,
    split_time,
    walk_chunks,
)


def gla_reference(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_decay: Float[Tensor, "B T H K"],
    starts: Bool[Tensor, "B T"],
    state: Float[Tensor, "B H K V"] | None = None,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K V"]]:
    """Run the recurrence one step at a time: the truth that fast kernels are held to.

    Args:
        log_decay: Natural logarithm of the decay, at most 0 and finite.
        starts: True where a document begins; the state is forgotten just before that token.
        state: What the tokens before these left; None means there were none.

    Returns:
        The outputs, in the dtype of `v`, and the state after the last token, in float32
        (float64 if `v` is float64).
    """
    dtype = scan_dtype(v)
    q, k, values = q.to(dtype) * q.shape[-1] ** -0.5, k.to(dtype), v.to(dtype)
    decay = log_decay.to(dtype).exp().masked_fill(starts[..., None, None], 0)
    memory = _empty_state(k, v) if state is None else state
    outputs = []
    for q_t, k_t, v_t, decay_t in zip(*(x.unbind(1) for x in (q, k, values, decay)), strict=True):
        memory = decay_t[..., None] * memory + k_t[..., None] * v_t[..., None, :]
        outputs.append(torch.einsum("bhk,bhkv->bhv", q_t, memory))
    return torch.stack(outputs, dim=1).to(v.dtype), memory


def gla_chunked(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_decay: Float[Tensor, "B T H K"],
    starts: Bool[Tensor, "B T"],
    state: Float[Tensor, "B H K V"] | None = None,
    *,
    chunk_tokens: int = 64,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K V"]]:
    """Compute `gla_reference` with matrix products, at any strength of decay.

    A decay of exp(-10000) per token neither overflows nor costs its neighbours their digits: see
    `merge_blocks`.

    Args:
        chunk_tokens: A power of two; changes the speed, not the result.
    """
    dtype = scan_dtype(v)
    n_tokens = v.shape[1]
    if n_tokens == 1:
        return gla_reference(q, k, v, log_decay, starts, state)
    chunk_tokens = chunk_length(n_tokens, chunk_tokens)
    if state is None:
        state = _empty_state(k, v)
    reach = document_reach(starts, chunk_tokens)
    q, k, values, log_decay = (
        rearrange(split_time(x.to(dtype), chunk_tokens), "B n C H K -> B n H C K")
        for x in (q * q.shape[-1] ** -0.5, k, v, log_decay)
    )

    def meet(since: Tensor, until: Tensor) -> Tensor:
        block = since.shape[-2]
        q_late = q.unflatten(-2, (-1, 2, block))[..., 1, :, :]
        k_early = k.unflatten(-2, (-1, 2, block))[..., 0, :, :]
        return (q_late * since.exp()) @ (k_early * until.exp()).mT

    scores, since, until = merge_blocks(log_decay, (q * k).sum(-1), meet)
    inside = scores.masked_fill(~reach.pairs[:, :, None], 0) @ values
    k_left = (k * until.exp()).masked_fill(~reach.to_end[:, :, None, :, None], 0)
    across = since[..., -1, :].exp().masked_fill(~reach.across[:, :, None, None], 0)
    before, state = walk_chunks(k_left.mT @ values, across[..., None], state)
    q_back = (q * since.exp()).masked_fill(~reach.from_before[:, :, None, :, None], 0)
    y = rearrange(inside + q_back @ before, "B n H C V -> B (n C) H V")
    return y[:, :n_tokens].to(v.dtype), state


def _empty_state(k: Tensor, v: Tensor) -> Tensor:
    return v.new_zeros(v.shape[0], v.shape[2], k.shape[-1], v.shape[-1], dtype=scan_dtype(v))
