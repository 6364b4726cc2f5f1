"""Bits per byte on held-out documents, per source.

    bits per byte = sum of nats over all targets / ln 2 / UTF-8 bytes of the documents

The ends of documents are targets too and are charged to the model. No constant of tokens per byte
enters. `helix evaluate bits_per_byte` scores by the same code, with intervals beside the figures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from helix.data import ValidationSource
from helix.scoring import Row, ScorePiece, score_rows


@dataclass(frozen=True, kw_only=True)
class SourceScore:
    """What one source's held-out documents cost."""

    nats: float
    n_targets: int
    n_bytes: int

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of the source text."""
        return self.nats / math.log(2) / self.n_bytes

    @property
    def nats_per_token(self) -> float:
        """Mean loss over targets."""
        return self.nats / self.n_targets


def score_sources(
    score: ScorePiece,
    sources: Sequence[ValidationSource],
    *,
    device: torch.device,
    batch_tokens: int,
) -> dict[str, SourceScore]:
    """Score each source's documents once, over all ranks; every rank gets the result."""
    found = {}
    for source in sources:
        rows = [Row(ids) for ids in source.rows()]
        scores = score_rows(
            score, rows, device=device, batch_tokens=batch_tokens, title=f"score {source.name}"
        )
        found[source.name] = SourceScore(
            nats=math.fsum(float(own.nats.sum()) for own in scores),
            n_targets=sum(len(own.nats) for own in scores),
            n_bytes=source.n_bytes,
        )
    return found
