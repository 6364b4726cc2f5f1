"""Softmax attention within documents, whose memory is every key and value so far.

    y_i = sum_j softmax_j(q_i k_j / sqrt(D)) v_j   over j <= i in the document of i

Dims: B batch, T time, S keys, P past keys, H query heads, M key and value heads (H is a multiple
of M), D width of a head.
Source: Vaswani et al. 2017, arXiv:1706.03762; grouped heads: Ainslie et al. 2023, arXiv:2305.13245.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from helix.kernels.chunks import scan_dtype


class AttentionMemory(NamedTuple):
    """What later tokens may need of earlier ones.

    Attributes:
        keys: Of every token so far, whatever its document.
        values: Likewise.
        position: Of the last token, counted from 0 in its document.
    """

    keys: Float[Tensor, "B P M D"]
    values: Float[Tensor, "B P M D"]
    position: Int64[Tensor, " B"]


def attention_reference(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T M D"],
    v: Float[Tensor, "B T M D"],
    positions: Int64[Tensor, "B T"],
    memory: AttentionMemory | None = None,
) -> tuple[Float[Tensor, "B T H D"], AttentionMemory]:
    """Attend with dense scores, one softmax in float32: the truth `attention` is held to.

    Args:
        positions: Of each token in its own document; a document begins where it is 0.
        memory: What the tokens before these left; None means there were none.

    Returns:
        The outputs, in the dtype of `q`, and the memory after the last token.
    """
    memory, allowed = _remember(k, v, positions, memory)
    return dense_attention(q, memory.keys, memory.values, allowed), memory


def attention(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T M D"],
    v: Float[Tensor, "B T M D"],
    positions: Int64[Tensor, "B T"],
    memory: AttentionMemory | None = None,
) -> tuple[Float[Tensor, "B T H D"], AttentionMemory]:
    """Compute `attention_reference` with PyTorch's fused attention."""
    memory, allowed = _remember(k, v, positions, memory)
    return fused_attention(q, memory.keys, memory.values, allowed), memory


def dense_attention(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B S M D"],
    v: Float[Tensor, "B S M D"],
    allowed: Bool[Tensor, "B T S"],
) -> Float[Tensor, "B T H D"]:
    """Attend where `allowed`, holding all scores; the result has the dtype of `q`."""
    dtype = scan_dtype(q)
    n_repeats = q.shape[2] // k.shape[2]
    k, v = (x.to(dtype).repeat_interleave(n_repeats, dim=2) for x in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q.to(dtype), k) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~allowed[:, None], -torch.inf).softmax(-1)
    return torch.einsum("bhts,bshd->bthd", weights, v).to(q.dtype)


def fused_attention(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B S M D"],
    v: Float[Tensor, "B S M D"],
    allowed: Bool[Tensor, "B T S"],
) -> Float[Tensor, "B T H D"]:
    """Compute `dense_attention` without holding the scores where PyTorch can."""
    y = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=allowed[:, None],
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return y.transpose(1, 2)


def document_origins(positions: Int64[Tensor, "B T"]) -> Int64[Tensor, "B T"]:
    """Say where on the row each token's document began; below 0 if before the row.

    Two tokens of a row are of one document exactly when their origins are equal.
    """
    return torch.arange(positions.shape[1], device=positions.device) - positions


def row_origins(
    positions: Int64[Tensor, "B T"], last_position: Int64[Tensor, " B"], n_past: int
) -> Int64[Tensor, "B S"]:
    """Extend `document_origins` to the `n_past` tokens before the row.

    Args:
        last_position: Of the token before the row. Past tokens of other documents than its own
            are given an origin that no token of the row has.
    """
    origin = -1 - last_position[:, None]
    index = torch.arange(-n_past, 0, device=positions.device)
    past = torch.where(index >= origin, origin, positions.shape[1])
    return torch.cat((past, document_origins(positions)), dim=1)


def _remember(
    k: Float[Tensor, "B T M D"],
    v: Float[Tensor, "B T M D"],
    positions: Int64[Tensor, "B T"],
    memory: AttentionMemory | None,
) -> tuple[AttentionMemory, Bool[Tensor, "B T S"]]:
    """Append to the memory, and say which of its keys each token may hear."""
    if memory is None:
        memory = AttentionMemory(k[:, :0], v[:, :0], torch.full_like(positions[:, 0], -1))
    n_past = memory.keys.shape[1]
    origins = row_origins(positions, memory.position, n_past)
    index = torch.arange(-n_past, positions.shape[1], device=positions.device)
    allowed = (origins[:, n_past:, None] == origins[:, None]) & (index[n_past:, None] >= index)
    keys, values = torch.cat((memory.keys, k), dim=1), torch.cat((memory.values, v), dim=1)
    return AttentionMemory(keys, values, positions[:, -1]), allowed
