"""Packing: documents to rows of exactly `n_context` pairs.

A document of n ids teaches n - 1 pairs (input, target). Rows are filled with the pairs of one
document after the other; a document is cut where the row ends and goes on in the next row. No
pair is lost, none is invented. Only lengths are needed, so every rank can compute all of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive pairs of one document."""

    source: str
    document: int
    first_pair: int
    n_pairs: int


def whole_document(source: str, document: int, n_ids: int) -> Segment:
    """Give all the pairs of a document."""
    return Segment(source, document, 0, n_ids - 1)


def cut_segment(segment: Segment, n_pairs: int) -> tuple[Segment, Segment | None]:
    """Cut after at most `n_pairs`; None means nothing is left."""
    if segment.n_pairs <= n_pairs:
        return segment, None
    source, document, first = segment.source, segment.document, segment.first_pair
    return (
        Segment(source, document, first, n_pairs),
        Segment(source, document, first + n_pairs, segment.n_pairs - n_pairs),
    )


def pack_row(
    documents: Iterator[Segment], carry: Segment | None, *, n_context: int
) -> tuple[list[Segment], Segment | None]:
    """Fill one row, first with what the row before left over.

    Args:
        documents: Drawn from only when the row needs one more.

    Returns:
        The row, and the carry for the next one. The row is short only if the documents ended.
    """
    row: list[Segment] = []
    n_free = n_context
    while n_free > 0:
        segment = carry or next(documents, None)
        if segment is None:
            break
        part, carry = cut_segment(segment, n_free)
        if part.n_pairs > 0:
            row.append(part)
        n_free -= part.n_pairs
    return row, carry
