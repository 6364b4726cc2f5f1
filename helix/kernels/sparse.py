"""Attention to a window and to the first tokens of the document, with a memory that never grows.

    i hears j when both are of one document, j <= i, and p_i - p_j < window or p_j < n_global

where p is the position in the document.

Dims: B batch, T time, S keys, H query heads, M key and value heads, D width of a head,
W window_tokens - 1 (recent tokens kept), F n_global (first tokens kept).
Source: Beltagy et al. 2020, arXiv:2004.05150, section 3.1; first tokens as sinks: Xiao et al.
2023, arXiv:2309.17453.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from helix.kernels.attention import (
    dense_attention,
    document_origins,
    fused_attention,
    row_origins,
)


class SparseMemory(NamedTuple):
    """What later tokens may need of earlier ones; zero where a place is not taken.

    Attributes:
        first_keys: Of the first tokens of the last token's document.
        first_values: Likewise.
        recent_keys: Of the last tokens, right-aligned, if of the last token's document.
        recent_values: Likewise.
        position: Of the last token, counted from 0 in its document.
    """

    first_keys: Float[Tensor, "B F M D"]
    first_values: Float[Tensor, "B F M D"]
    recent_keys: Float[Tensor, "B W M D"]
    recent_values: Float[Tensor, "B W M D"]
    position: Int64[Tensor, " B"]


def sparse_reference(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T M D"],
    v: Float[Tensor, "B T M D"],
    positions: Int64[Tensor, "B T"],
    *,
    window_tokens: int,
    n_global: int,
) -> Float[Tensor, "B T H D"]:
    """Attend with a dense mask from the first token on: the truth `sparse_blocked` is held to.

    Args:
        positions: Of each token in its own document; a document begins where it is 0.
        window_tokens: How many tokens are heard, the present one included.
        n_global: How many first tokens of the document are heard from anywhere.

    Returns:
        The outputs, in the dtype of `q`.
    """
    origins = document_origins(positions)
    index = torch.arange(positions.shape[1], device=positions.device)
    distance = index[:, None] - index
    near = (distance < window_tokens) | (positions < n_global)[:, None, :]
    allowed = (origins[:, :, None] == origins[:, None, :]) & (distance >= 0) & near
    return dense_attention(q, k, v, allowed)


def sparse_blocked(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T M D"],
    v: Float[Tensor, "B T M D"],
    positions: Int64[Tensor, "B T"],
    memory: SparseMemory | None = None,
    *,
    window_tokens: int,
    n_global: int,
    is_continued: bool = True,
    block_tokens: int = 256,
) -> tuple[Float[Tensor, "B T H D"], SparseMemory]:
    """Compute `sparse_reference` a block of queries at a time, in O(T (window + block)) memory.

    Blocks are walked like a scan: what one needs of those before it is the memory, so that a
    row may be cut anywhere.

    Args:
        memory: What the tokens before these left; None means there were none.
        is_continued: See Mixer.
        block_tokens: Changes the speed, not the result.

    Returns:
        The outputs, in the dtype of `q`, and the memory after the last token.
    """
    if memory is None:
        memory = _empty_memory(k, v, n_global=n_global)
    before, outputs = memory.position, []
    blocks = (x.split(block_tokens, dim=1) for x in (q, k, v, positions))
    for q_block, k_block, v_block, at in zip(*blocks, strict=True):
        y, memory = _attend_block(
            q_block, k_block, v_block, at, memory, window_tokens=window_tokens
        )
        outputs.append(y)
    y = torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]
    if not is_continued:
        return y, memory
    goes_on = positions.is_cpu and bool((positions[:, -1] == before + positions.shape[1]).all())
    return y, _settle(memory, window_tokens=window_tokens, is_blank=goes_on)


def remember(
    k: Float[Tensor, "B T M D"],
    v: Float[Tensor, "B T M D"],
    positions: Int64[Tensor, "B T"],
    *,
    window_tokens: int,
    n_global: int,
    is_continued: bool,
) -> SparseMemory:
    """Give the memory that a row leaves when nothing came before it."""
    n_tokens = k.shape[1]
    place = document_origins(positions)[:, -1:] + torch.arange(n_global, device=k.device)
    missing = ((place < 0) | (place >= n_tokens))[..., None, None]
    at = place.clamp(0, n_tokens - 1)[..., None, None]
    first_keys, first_values = (x.take_along_dim(at, dim=1).masked_fill(missing, 0) for x in (k, v))
    n_dropped = max(0, k.shape[1] - (window_tokens - 1))
    recent = k[:, n_dropped:], v[:, n_dropped:]
    memory = SparseMemory(first_keys, first_values, *recent, positions[:, -1])
    return _settle(memory, window_tokens=window_tokens) if is_continued else memory


def _empty_memory(
    k: Float[Tensor, "B T M D"], v: Float[Tensor, "B T M D"], *, n_global: int
) -> SparseMemory:
    first = k.new_zeros(k.shape[0], n_global, *k.shape[2:])
    position = torch.full((k.shape[0],), -1, device=k.device)
    return SparseMemory(first, first, k[:, :0], v[:, :0], position)


def _attend_block(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T M D"],
    v: Float[Tensor, "B T M D"],
    positions: Int64[Tensor, "B T"],
    memory: SparseMemory,
    *,
    window_tokens: int,
) -> tuple[Float[Tensor, "B T H D"], SparseMemory]:
    """Attend from one block; `memory` may still hold fewer recent tokens than the window."""
    allowed = _allowed_near(positions, memory, window_tokens=window_tokens)
    is_full = memory.recent_keys.shape[1] == window_tokens - 1  # else none has left the window yet
    n_first = memory.first_keys.shape[1] if is_full else 0
    if is_full:
        allowed = torch.cat((_allowed_far(positions, memory), allowed), dim=2)
    keys = torch.cat((memory.first_keys[:, :n_first], memory.recent_keys, k), dim=1)
    values = torch.cat((memory.first_values[:, :n_first], memory.recent_values, v), dim=1)
    n_dropped = max(n_first, keys.shape[1] - (window_tokens - 1))
    after = SparseMemory(
        *_first_tokens(k, v, positions, memory),
        keys[:, n_dropped:],  # of what was just put together: a window is not copied twice
        values[:, n_dropped:],
        positions[:, -1],
    )
    return fused_attention(q, keys, values, allowed), after


def _allowed_near(
    positions: Int64[Tensor, "B T"], memory: SparseMemory, *, window_tokens: int
) -> Bool[Tensor, "B T S"]:
    """Allow keys of the recent tokens and the block by window, or as first of their document."""
    n_global, n_recent = memory.first_keys.shape[1], memory.recent_keys.shape[1]
    origins = row_origins(positions, memory.position, n_recent)
    index = torch.arange(-n_recent, positions.shape[1], device=positions.device)
    distance = index[n_recent:, None] - index
    near = (distance < window_tokens) | (index - origins < n_global)[:, None]
    return (origins[:, n_recent:, None] == origins[:, None]) & (distance >= 0) & near


def _allowed_far(positions: Int64[Tensor, "B T"], memory: SparseMemory) -> Bool[Tensor, "B T F"]:
    """Allow keys of the first tokens that lie before the recent ones, so that none counts twice."""
    n_global, n_recent = memory.first_keys.shape[1], memory.recent_keys.shape[1]
    origin = -1 - memory.position[:, None]
    index = origin + torch.arange(n_global, device=positions.device)
    continues = document_origins(positions) == origin
    return continues[:, :, None] & (index < -n_recent)[:, None]


def _first_tokens(
    k: Float[Tensor, "B T M D"],
    v: Float[Tensor, "B T M D"],
    positions: Int64[Tensor, "B T"],
    memory: SparseMemory,
) -> tuple[Float[Tensor, "B F M D"], Float[Tensor, "B F M D"]]:
    """Find the first tokens of the last token's document, in the block or in the memory."""
    n_tokens, n_global = k.shape[1], memory.first_keys.shape[1]
    place = torch.arange(n_global, device=k.device)
    index = document_origins(positions)[:, -1:] + place  # on the block; below 0: in the memory
    source = torch.where(index < 0, place, n_global + index.clamp(max=n_tokens - 1))
    missing = (index >= n_tokens)[..., None, None]
    keys, values = (
        torch.cat(pair, dim=1).take_along_dim(source[..., None, None], dim=1)
        for pair in ((memory.first_keys, k), (memory.first_values, v))
    )
    return keys.masked_fill(missing, 0), values.masked_fill(missing, 0)


def _settle(memory: SparseMemory, *, window_tokens: int, is_blank: bool = False) -> SparseMemory:
    """Bring the recent tokens to their fixed number and blank those of other documents.

    Args:
        is_blank: Whether there are none of other documents, as far as is known.
    """
    n_missing = window_tokens - 1 - memory.recent_keys.shape[1]
    recent = memory.recent_keys, memory.recent_values
    if n_missing:
        recent = tuple(F.pad(x, (0, 0, 0, 0, n_missing, 0)) for x in recent)
    if not is_blank:
        index = torch.arange(1 - window_tokens, 0, device=memory.position.device)
        other = (index < -1 - memory.position[:, None])[..., None, None]
        recent = tuple(x.masked_fill(other, 0) for x in recent)
    return memory._replace(recent_keys=recent[0], recent_values=recent[1])
