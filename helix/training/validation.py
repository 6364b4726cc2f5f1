"""Bits per byte on held-out documents, per source.

    bits per byte = sum of nats over all targets / ln 2 / UTF-8 bytes of the documents

The ends of documents are targets too and are charged to the model. No constant of tokens per byte
enters.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from helix.batch import Batch
from helix.data import ValidationSource
from helix.distributed import sum_over_ranks
from helix.models.base import Output


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
    evaluate: Callable[[Batch], Output], sources: Sequence[ValidationSource], device: torch.device
) -> dict[str, SourceScore]:
    """Score each source's documents once, over all ranks; every rank gets the result."""
    scores = {}
    for source in sources:
        totals = torch.zeros(2, dtype=torch.float64, device=device)
        for batch in source.batches():
            output = evaluate(batch.to(device))
            totals += torch.stack((output.loss.double(), totals.new_tensor(output.n_targets)))
        nats, n_targets = sum_over_ranks(totals).tolist()
        scores[source.name] = SourceScore(
            nats=nats, n_targets=int(n_targets), n_bytes=source.n_bytes
        )
    return scores
