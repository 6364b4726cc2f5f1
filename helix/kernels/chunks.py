"""What the chunked scans share: time in chunks, decay and documents inside, states between them.

Inside a chunk all tokens meet at once, in matrix products; from chunk to chunk only the state
walks on. A document that starts inside a chunk cuts both.

Dims: B batch, T time, n chunks, C tokens of a chunk, L any leading axes, K channels that decay.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


class Reach(NamedTuple):
    """Who may hear whom, by documents alone.

    Attributes:
        pairs: Whether the row's token may hear the column's: same document and not later.
        from_before: Whether a token's document began before its chunk.
        to_end: Whether a token's document still runs at the end of its chunk.
        across: Whether one document covers the whole chunk and the token before it.
    """

    pairs: Bool[Tensor, "B n C C"]
    from_before: Bool[Tensor, "B n C"]
    to_end: Bool[Tensor, "B n C"]
    across: Bool[Tensor, "B n"]


def split_time(x: Tensor, chunk_tokens: int) -> Tensor:
    """Split the axis T of (B, T, ...) into (n, C), filling the last chunk up with zeros."""
    n_missing = -x.shape[1] % chunk_tokens
    if n_missing:
        x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, n_missing))
    return x.unflatten(1, (-1, chunk_tokens))


def document_reach(starts: Bool[Tensor, "B T"], chunk_tokens: int) -> Reach:
    """Work out who may hear whom inside chunks of `chunk_tokens`."""
    document = split_time(starts, chunk_tokens).cumsum(-1)  # (B, n, C), counted from the chunk
    earlier = document.new_ones(chunk_tokens, chunk_tokens, dtype=torch.bool).tril()
    last = document[..., -1]
    return Reach(
        pairs=(document[..., :, None] == document[..., None, :]) & earlier,
        from_before=document == 0,
        to_end=document == last[..., None],
        across=last == 0,
    )


def chunk_length(n_tokens: int, chunk_tokens: int) -> int:
    """Give the power of two, `chunk_tokens` at most, that wastes least on `n_tokens`."""
    return min(chunk_tokens, 1 << (n_tokens - 1).bit_length())


class Decayed(NamedTuple):
    """What a chunk's log decays add up to.

    Attributes:
        pairs: What `meet` made of each later and earlier token; the diagonal as given.
        since: From the chunk's start up to and including each token.
        until: From each token, excluded, to the chunk's end.
    """

    pairs: Float[Tensor, "*L C C"]
    since: Float[Tensor, "*L C K"]
    until: Float[Tensor, "*L C K"]


def merge_blocks(
    log_decay: Float[Tensor, "*L C K"],
    diagonal: Float[Tensor, "*L C"],
    meet: Callable[[Tensor, Tensor], Tensor],
) -> Decayed:
    """Add up log decays between all pairs of tokens without one subtraction.

    Neighbouring blocks are merged, twice as long each time. Tokens of the second meet tokens of
    the first at the border between them: the decay from one to the other is that up to the border
    and that from it, both at most 1. So nothing overflows at any strength of decay, no two large
    sums cancel, and a decay behind a document's start gets a gradient of exactly zero.

    Args:
        meet: From `since` the border of the later tokens, (*L, pairs of blocks, C', K), and
            `until` the border of the earlier, likewise, to (*L, pairs of blocks, C', C').
    """
    pairs = diagonal[..., None, None]  # (*L, blocks, tokens of a block, same)
    since = log_decay.unsqueeze(-2)  # (*L, blocks, tokens of a block, K)
    until = torch.zeros_like(since)
    while since.shape[-3] > 1:
        (early, late), (since_early, since_late), (until_early, until_late) = (
            x.unflatten(-3, (-1, 2)).unbind(-3) for x in (pairs, since, until)
        )
        met = meet(since_late, until_early)
        above = F.pad(early, (0, early.shape[-1]))
        pairs = torch.cat((above, torch.cat((met, late), dim=-1)), dim=-2)
        since_whole, until_whole = since_early[..., -1:, :], since_late[..., -1:, :]
        since = torch.cat((since_early, since_late + since_whole), dim=-2)
        until = torch.cat((until_early + until_whole, until_late), dim=-2)
    return Decayed(pairs.squeeze(-3), since.squeeze(-3), until.squeeze(-3))


def walk_chunks(
    update: Float[Tensor, "B n ..."], decay: Float[Tensor, "B n ..."], state: Float[Tensor, "B ..."]
) -> tuple[Float[Tensor, "B n ..."], Float[Tensor, "B ..."]]:
    """Carry the state from chunk to chunk: state <- decay * state + update.

    Args:
        decay: Must broadcast against `update`.

    Returns:
        The state before each chunk, and the state after the last.
    """
    before = []
    for chunk_decay, chunk_update in zip(decay.unbind(1), update.unbind(1), strict=True):
        before.append(state)
        state = torch.addcmul(chunk_update, chunk_decay, state)
    return torch.stack(before, dim=1), state


def scan_dtype(x: Tensor) -> torch.dtype:
    """Choose the dtype that kernels compute in: float32, or float64 for gradcheck."""
    return torch.promote_types(x.dtype, torch.float32)
