"""The curve: how much is kept at every threshold, exactly, in bounded memory."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_tools.value.scorer import N_STEPS

LOWEST, HIGHEST = -N_STEPS, 2 * N_STEPS  # steps that a scorer gives


def zeros() -> NDArray[np.int64]:
    """Count nothing, for each step."""
    return np.zeros(HIGHEST - LOWEST + 1, dtype=np.int64)


@dataclass(frozen=True)
class Curve:
    """Documents and bytes by the step of their score."""

    documents: NDArray[np.int64] = field(default_factory=zeros)
    bytes: NDArray[np.int64] = field(default_factory=zeros)

    def add(self, step: int, n_bytes: int) -> None:
        """Count a document."""
        self.documents[step - LOWEST] += 1
        self.bytes[step - LOWEST] += n_bytes

    def kept_bytes(self) -> NDArray[np.float64]:
        """Give the share of bytes that reach each step, from `LOWEST` on."""
        return share_from(self.bytes)

    def kept_documents(self) -> NDArray[np.float64]:
        """Give the share of documents that reach each step, from `LOWEST` on."""
        return share_from(self.documents)

    def choose_step(self, keep: float) -> int:
        """Give the highest step that at least the share `keep` of the bytes reaches."""
        remaining = np.cumsum(self.bytes[::-1])[::-1]
        enough = np.flatnonzero(remaining >= keep * remaining[0])
        return int(enough[-1]) + LOWEST


def add_up(curves: list[Curve]) -> Curve:
    """Add curves."""
    return Curve(
        np.sum([curve.documents for curve in curves], axis=0),
        np.sum([curve.bytes for curve in curves], axis=0),
    )


def share_from(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give the share of all that lies at each place or beyond it."""
    return np.cumsum(counts[::-1])[::-1] / max(int(counts.sum()), 1)
