"""Provenance: which documents a step of a run was made of, by look-up."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from helix.data.names import document_id
from helix.data.packing import Segment, pack_row
from helix.data.shards import DataError
from helix.data.stream import Loader, Mixture


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Consecutive tokens of one document in a row.

    Attributes:
        document: Its number in the index of the source.
        first_token: Where they begin in the document's ids; 0 is its bos.
        epoch: How many times all documents of the source had been drawn before.
    """

    source: str
    document: int
    first_token: int
    n_tokens: int
    epoch: int


class EpochRecorder:
    """Hands documents on from a mixture and writes down the epoch of each."""

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture
        self.epochs: list[int] = []

    def __iter__(self) -> Iterator[Segment]:
        return self

    def __next__(self) -> Segment:
        before = {name: cursor.epoch for name, cursor in self.mixture.cursors.items()}
        segment = next(self.mixture)
        if segment.n_pairs > 0:  # or no row will have it
            self.epochs.append(before[segment.source])
        return segment


def trace_rows(loader: Loader, n_rows: int) -> list[list[Piece]]:
    """Draw the next rows of the global sequence and tell what each is made of, tokens unread."""
    drawn = EpochRecorder(loader.mixture)
    rows = []
    if loader.carry is not None:
        cursor = loader.mixture.cursors[loader.carry.source]
        drawn.epochs.append(cursor.epoch - (cursor.position == 0))
    carry = loader.carry
    n_begun = -1 if carry is None else 0
    for _ in range(n_rows):
        row, carry = pack_row(drawn, carry, n_context=loader.n_context)
        pieces = []
        for segment in row:
            n_begun += segment.first_pair == 0
            pieces.append(describe(segment, drawn.epochs[n_begun]))
        rows.append(pieces)
    loader.carry = carry
    loader.n_rows_drawn += n_rows
    return rows


def name_documents(loader: Loader, row: int, *, n_named: int) -> list[list[str | int]]:
    """Tell source, number and id of each document in the global batch that begins at a row.

    Lengths and names are looked up and no token is read; the loader stays where it is.

    Args:
        n_named: So many are given their id; one that cannot be looked up has none.
    """
    rows = loader.provenance(row // loader.batch_rows)
    found = dict.fromkeys((s.source, s.document) for segments in rows for s in segments)
    named: list[list[str | int]] = []
    for source, document in found:
        entry: list[str | int] = [source, document]
        if len(named) < n_named:
            with contextlib.suppress(DataError, OSError):
                entry.append(document_id(loader.dataset, source, document))
        named.append(entry)
    return named


def describe(segment: Segment, epoch: int) -> Piece:
    """Tell a segment's tokens: the inputs of its pairs."""
    return Piece(
        source=segment.source,
        document=segment.document,
        first_token=segment.first_pair,
        n_tokens=segment.n_pairs,
        epoch=epoch,
    )
