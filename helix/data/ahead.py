"""Reads the next batch while the device still works on this one.

A GPU computes for hundreds of milliseconds after the last kernel of a step is queued; what is read
then costs nothing. The position that is saved stays before the batch that was read ahead, so a run
that stops loses and repeats no row.
"""

import torch

from helix.batch import Batch
from helix.data.stream import Loader


class ReadAhead:
    """A loader that can hold one batch in stock."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.stock: tuple[Batch, dict] | None = None  # and the position before it

    def prepare(self) -> None:
        """Read the batch that `next` will give, unless it is there already."""
        if self.stock is None:
            before = self.loader.state_dict()
            batch = self.loader.next()
            self.stock = batch.pinned() if torch.cuda.is_available() else batch, before

    def next(self) -> Batch:
        """Give this rank's rows of the next global batch."""
        if self.stock is None:
            return self.loader.next()
        batch, _ = self.stock
        self.stock = None
        return batch

    def state_dict(self) -> dict:
        """Give the position before the batch that `next` will give; see Loader.state_dict."""
        return self.loader.state_dict() if self.stock is None else self.stock[1]

    def load_state_dict(self, state: dict) -> None:
        """Go to a position and drop what was read ahead; see Loader.load_state_dict."""
        self.stock = None
        self.loader.load_state_dict(state)
