"""State space duality, the scan of Mamba-2: a matrix state that decays by one number per head.

    H_t = exp(dt_t a) H_{t-1} + dt_t x_t b_t^T        y_t = H_t c_t + skip x_t

Dims: B batch, T time, H heads, P width of a head, G groups of heads that share b and c,
R heads of a group, N width of the state, n chunks, C tokens of a chunk.
Source: Dao and Gu 2024, arXiv:2405.21060, equations 1, 2 and section 6.
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


def ssd_reference(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    a: Float[Tensor, " H"],
    b: Float[Tensor, "B T G N"],
    c: Float[Tensor, "B T G N"],
    skip: Float[Tensor, " H"],
    starts: Bool[Tensor, "B T"],
    state: Float[Tensor, "B H P N"] | None = None,
) -> tuple[Float[Tensor, "B T H P"], Float[Tensor, "B H P N"]]:
    """Run the recurrence one step at a time: the truth that fast kernels are held to.

    Args:
        dt: Step sizes, above 0.
        a: Decay rates, below 0; A in the paper.
        skip: What each head adds of its input; D in the paper.
        starts: True where a document begins; the state is forgotten just before that token.
        state: What the tokens before these left; None means there were none.

    Returns:
        The outputs, in the dtype of `x`, and the state after the last token, in float32
        (float64 if `x` is float64).
    """
    dtype = scan_dtype(x)
    n_repeats = x.shape[2] // b.shape[2]
    u = dt.to(dtype)[..., None] * x.to(dtype)
    decay = (dt.to(dtype) * a.to(dtype)).exp().masked_fill(starts[..., None], 0)
    b, c = (z.to(dtype).repeat_interleave(n_repeats, dim=2) for z in (b, c))
    memory = _empty_state(x, b) if state is None else state
    outputs = []
    for u_t, b_t, c_t, decay_t in zip(*(z.unbind(1) for z in (u, b, c, decay)), strict=True):
        memory = decay_t[..., None, None] * memory + u_t[..., None] * b_t[..., None, :]
        outputs.append(torch.einsum("bhpn,bhn->bhp", memory, c_t))
    y = torch.stack(outputs, dim=1) + skip.to(dtype)[:, None] * x.to(dtype)
    return y.to(x.dtype), memory


def ssd_chunked(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    a: Float[Tensor, " H"],
    b: Float[Tensor, "B T G N"],
    c: Float[Tensor, "B T G N"],
    skip: Float[Tensor, " H"],
    starts: Bool[Tensor, "B T"],
    state: Float[Tensor, "B H P N"] | None = None,
    *,
    chunk_tokens: int = 64,
) -> tuple[Float[Tensor, "B T H P"], Float[Tensor, "B H P N"]]:
    """Compute `ssd_reference` with matrix products inside chunks, one state step per chunk.

    Args:
        chunk_tokens: A power of two; changes the speed, not the result.
    """
    dtype = scan_dtype(x)
    n_tokens, n_heads, n_groups = x.shape[1], x.shape[2], b.shape[2]
    if n_tokens == 1:
        return ssd_reference(x, dt, a, b, c, skip, starts, state)
    chunk_tokens = chunk_length(n_tokens, chunk_tokens)
    if state is None:
        state = _empty_state(x, b)
    reach = document_reach(starts, chunk_tokens)
    u = dt.to(dtype)[..., None] * x.to(dtype)
    u, b, c = (split_time(z.to(dtype), chunk_tokens) for z in (u, b, c))
    u = rearrange(u, "B n C (G R) P -> B n G R C P", G=n_groups)
    b, c = (rearrange(z, "B n C G N -> B n G C N") for z in (b, c))
    decay = rearrange(
        split_time(dt.to(dtype) * a.to(dtype), chunk_tokens), "B n C (G R) -> B n G R C", G=n_groups
    )
    apart, since, until = merge_blocks(
        decay[..., None], torch.zeros_like(decay), lambda late, early: late + early.mT
    )
    apart = apart.masked_fill(~reach.pairs[:, :, None, None], -torch.inf)
    inside = (apart.exp() * (c @ b.mT).unsqueeze(3)) @ u  # (B, n, G, R, C, P)
    u_left = (u * until.exp()).masked_fill(~reach.to_end[:, :, None, None, :, None], 0)
    update = rearrange(u_left, "B n G R C P -> B n G (R P) C") @ b
    across = since[..., -1, 0].exp().masked_fill(~reach.across[:, :, None, None], 0)
    before, state = walk_chunks(
        rearrange(update, "B n G (R P) N -> B n (G R) P N", R=n_heads // n_groups),
        rearrange(across, "B n G R -> B n (G R) 1 1"),
        state,
    )
    heard = c @ rearrange(before, "B n (G R) P N -> B n G N (R P)", G=n_groups)
    heard = rearrange(heard, "B n G C (R P) -> B n G R C P", R=n_heads // n_groups)
    fading = since.exp().masked_fill(~reach.from_before[:, :, None, None, :, None], 0)
    y = rearrange(torch.addcmul(inside, heard, fading), "B n G R C P -> B (n C) (G R) P")
    y = torch.addcmul(y[:, :n_tokens], skip.to(dtype)[:, None], x.to(dtype))
    return y.to(x.dtype), state


def _empty_state(x: Tensor, b: Tensor) -> Tensor:
    return x.new_zeros(x.shape[0], *x.shape[2:], b.shape[-1], dtype=scan_dtype(x))
