"""What documents cost under a model, each read whole with the state carried along.

The trainer's validation and the offline evaluations both score through here, so that their figures
are one thing. Batches depend on the documents alone: neither the number of ranks nor what a rank is
given changes a figure.

Dims: B rows, T tokens of a piece.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from helix import distributed
from helix.batch import IGNORED
from helix.data.progress import show_progress
from helix.models.base import ModelState, Piece, TokenScores

PIECE_TOKENS = 1024  # read at a time; the state is carried to the next piece
WIDTH_MULTIPLE = 16  # pieces are padded to this: Triton compiles anew for widths that are none

ScorePiece = Callable[[Piece], tuple[TokenScores, ModelState]]


@dataclass(frozen=True)
class Row:
    """Ids that are read from a document's start.

    Attributes:
        n_given: Leading ids that are read but not charged, at least 1.
    """

    ids: NDArray[np.integer]
    n_given: int = 1

    def __post_init__(self) -> None:
        assert 1 <= self.n_given <= len(self.ids), "a row begins with what starts a document"


@dataclass(frozen=True)
class RowScores:
    """What the charged ids of one row cost, in their order.

    Attributes:
        nats: Negative log-likelihoods.
        ranks: How many entries of the vocabulary were likelier; 0 is the greedy choice.
    """

    nats: NDArray[np.float64]
    ranks: NDArray[np.int64]


def score_rows(
    score: ScorePiece, rows: Sequence[Row], *, device: torch.device, batch_tokens: int, title: str
) -> list[RowScores]:
    """Score rows, each from its start; all ranks call it and get all scores.

    Args:
        score: What scores a piece.
        batch_tokens: Tokens, padding included, that a batch holds at most; a longer row stands
            alone.
        title: Of the progress bar.

    Returns:
        Scores in the order of the rows.
    """
    lengths = [len(row.ids) - 1 for row in rows]
    batches = plan_batches(lengths, batch_tokens=batch_tokens)
    rank, world_size = distributed.rank(), distributed.world_size()
    found: dict[int, RowScores] = {}
    rounds = [batches[start : start + world_size] for start in range(0, len(batches), world_size)]
    for group in show_progress(rounds, title):
        # Under ZeRO-3 every rank must take part in as many forward passes as any other.
        n_pieces = max(-(-padded(lengths[batch[-1]]) // PIECE_TOKENS) for batch in group)
        own = group[rank] if rank < len(group) else group[0]
        scores = score_batch(score, [rows[row] for row in own], device=device, n_pieces=n_pieces)
        if rank < len(group):
            found |= dict(zip(own, scores, strict=True))
    for part in distributed.gather(found):
        found |= part
    return [found[number] for number in range(len(rows))]


def plan_batches(lengths: Sequence[int], *, batch_tokens: int) -> list[list[int]]:
    """Put rows of like length together, the shortest first.

    Returns:
        Numbers of rows; within a batch their lengths rise.
    """
    batches: list[list[int]] = []
    for row in np.argsort(lengths, kind="stable").tolist():
        if batches and (len(batches[-1]) + 1) * padded(lengths[row]) <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def padded(length: int, multiple: int = WIDTH_MULTIPLE) -> int:
    """Give the width to which rows of a length are padded."""
    return max(-(-length // multiple), 1) * multiple


@torch.no_grad()
def score_batch(
    score: ScorePiece,
    rows: Sequence[Row],
    *,
    device: torch.device,
    state: ModelState | None = None,
    width_multiple: int = WIDTH_MULTIPLE,
    n_pieces: int = 0,
) -> list[RowScores]:
    """Score rows together, piece after piece.

    Args:
        state: What was read before each row; None begins a document.
        width_multiple: Rows are padded to it.
        n_pieces: Forward passes at least; those beyond the rows' end count for nothing.
    """
    longest = padded(max(len(row.ids) - 1 for row in rows), width_multiple)
    tokens = np.zeros((len(rows), longest), np.int64)  # nothing before padding can see it
    targets = np.full((len(rows), longest), IGNORED, np.int64)
    for number, row in enumerate(rows):
        tokens[number, : len(row.ids) - 1] = row.ids[:-1]
        targets[number, row.n_given - 1 : len(row.ids) - 1] = row.ids[row.n_given :]
    pieces: list[TokenScores] = []
    parts = list(cut(tokens, targets, device))
    for own_tokens, own_targets in parts:
        scores, state = score(Piece(tokens=own_tokens, targets=own_targets, state=state))
        pieces.append(TokenScores(scores.nats.double().cpu(), scores.ranks.cpu()))
    for _ in range(len(parts), n_pieces):
        score(Piece(tokens=parts[-1][0], targets=parts[-1][1], state=state))
    nats = torch.cat([scores.nats for scores in pieces], dim=1).numpy()
    ranks = torch.cat([scores.ranks for scores in pieces], dim=1).numpy()
    return [
        RowScores(nats[number, charged], ranks[number, charged])
        for number, row in enumerate(rows)
        for charged in [slice(row.n_given - 1, len(row.ids) - 1)]
    ]


def cut(
    tokens: NDArray[np.int64], targets: NDArray[np.int64], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut rows into pieces on the device."""
    for start in range(0, tokens.shape[1], PIECE_TOKENS):
        piece = slice(start, start + PIECE_TOKENS)
        yield (
            torch.from_numpy(tokens[:, piece]).to(device),
            torch.from_numpy(targets[:, piece]).to(device),
        )
