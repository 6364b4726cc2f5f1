"""Series: what is drawn of a run's many steps, none of its peaks lost."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helix.training.metrics import Record

DRAWN_POINTS = 600  # of a line: more than a screen shows
SMOOTHED_SHARE = 0.02  # of a run's steps, that a smoothed point is the mean of


@dataclass(frozen=True)
class Series:
    """Figures by step; NaN where a figure was not finite."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]

    def __bool__(self) -> bool:
        """Tell whether there is anything to draw."""
        return bool(np.isfinite(self.y).any())


def number(record: Mapping[str, Any], name: str) -> float:
    """Give a figure of a record; NaN where it is missing, null or no number."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value)


def series(records: Iterable[Record], name: str, *, by: str = "step") -> Series:
    """Take a figure out of those records that have it."""
    found = [record for record in records if name in record]
    x = np.array([number(record, by) for record in found], dtype=np.float64)
    y = np.array([number(record, name) for record in found], dtype=np.float64)
    kept = np.isfinite(x)
    return Series(x[kept], y[kept])


def window_of(n_points: int) -> int:
    """Say of how many points a smoothed one is the mean: an odd number."""
    return 2 * int(n_points * SMOOTHED_SHARE / 2) + 1


def smooth(own: Series) -> Series:
    """Give running means over a window around each point, shorter at the ends."""
    half = window_of(len(own.y)) // 2
    kept = np.isfinite(own.y)
    sums = np.concatenate([[0.0], np.cumsum(np.where(kept, own.y, 0.0))])
    counts = np.concatenate([[0], np.cumsum(kept)])
    middle = np.arange(len(own.y))
    low, high = np.maximum(middle - half, 0), np.minimum(middle + half + 1, len(own.y))
    n_kept = counts[high] - counts[low]
    means = np.full(len(own.y), np.nan)
    np.divide(sums[high] - sums[low], n_kept, out=means, where=n_kept > 0)
    return Series(own.x, means)


def thin(own: Series, n_points: int = DRAWN_POINTS) -> Series:
    """Keep the lowest and the highest point of each of n_points / 2 stretches."""
    if len(own.y) <= n_points:
        return own
    edges = np.linspace(0, len(own.y), n_points // 2 + 1).astype(int)
    kept: set[int] = {0, len(own.y) - 1}
    for start, end in pairwise(edges.tolist()):
        part = own.y[start:end]
        if np.isfinite(part).any():
            kept |= {start + int(np.nanargmin(part)), start + int(np.nanargmax(part))}
    chosen = sorted(kept)
    return Series(own.x[chosen], own.y[chosen])


def pick(n_points: int, n_rows: int) -> list[int]:
    """Choose evenly spaced points for a table, the first and the last among them."""
    if n_points <= n_rows:
        return list(range(n_points))
    return sorted({round(i) for i in np.linspace(0, n_points - 1, n_rows).tolist()})


def median(values: Iterable[float]) -> float:
    """Give the median of the finite values; NaN where there are none."""
    kept = [value for value in values if math.isfinite(value)]
    return statistics.median(kept) if kept else math.nan


def quantile(values: Sequence[float], share: float) -> float:
    """Give a quantile of the finite values; NaN where there are none."""
    kept = [value for value in values if math.isfinite(value)]
    return float(np.quantile(kept, share)) if kept else math.nan


def last_finite(own: Series) -> float:
    """Give the last finite figure; NaN where there is none."""
    kept = own.y[np.isfinite(own.y)]
    return float(kept[-1]) if len(kept) else math.nan


def first_finite(own: Series) -> float:
    """Give the first finite figure; NaN where there is none."""
    kept = own.y[np.isfinite(own.y)]
    return float(kept[0]) if len(kept) else math.nan
