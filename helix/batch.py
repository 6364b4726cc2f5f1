"""Batch: the one noun that crosses every layer, from the loader to the kernel's caller.

Dims: B rows, T tokens of context.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int64
from torch import Tensor

IGNORED = -100  # target of a position where nothing is to be learned; torch's own convention


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of packed documents.

    Attributes:
        tokens: What the model reads.
        targets: What it must predict at each position; IGNORED where nothing is to be learned.
        document_ids: Counts the documents along a row. Neighbouring positions with the same
            number belong to one document, and nothing may flow between different numbers.
    """

    tokens: Int64[Tensor, "B T"]
    targets: Int64[Tensor, "B T"]
    document_ids: Int64[Tensor, "B T"]

    @cached_property
    def n_targets(self) -> int:
        """Count the positions that carry a loss; `to` hands the count on."""
        return int((self.targets != IGNORED).sum())

    @property
    def n_rows(self) -> int:
        """Count the rows."""
        return self.tokens.shape[0]

    def rows(self, start: int, stop: int) -> "Batch":
        """Take the rows from `start` up to, not including, `stop`."""
        return Batch(
            tokens=self.tokens[start:stop],
            targets=self.targets[start:stop],
            document_ids=self.document_ids[start:stop],
        )

    def pinned(self) -> "Batch":
        """Copy to memory from which a GPU reads by itself, while the CPU goes on."""
        return Batch(
            tokens=self.tokens.pin_memory(),
            targets=self.targets.pin_memory(),
            document_ids=self.document_ids.pin_memory(),
        )

    def to(self, device: torch.device | str) -> "Batch":
        """Copy to a device. Targets are counted before, so that nobody waits for the device."""
        moved = Batch(
            tokens=self.tokens.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            document_ids=self.document_ids.to(device, non_blocking=True),
        )
        moved.__dict__["n_targets"] = self.n_targets  # where cached_property looks, frozen or not
        return moved
