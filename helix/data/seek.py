"""Seeking: where the mixture stands after any number of pairs, without drawing its documents.

The mixture draws next from the source with the least `pairs drawn / weight`, so its sequence is
the merge of the sources' documents sorted by (key, source), where a document's key is that ratio
just before it is drawn. The documents with keys below a bound are therefore a place the mixture
comes by, and counting them is one binary search per source in the running sum of lengths.

Keys are the same float divisions that the mixture makes, so the answer is exact, not near.
"""

from collections.abc import Callable, Mapping

import numpy as np

BISECTIONS = 80  # more than the bits of a float: afterwards one document, or equal keys, are left

Place = tuple[int, int, int]  # a cursor: epoch, position in it, pairs drawn in all


class Course:
    """The documents of one source as the mixture draws them, epoch after epoch.

    Args:
        kept: The documents that are drawn at all.
        order: Gives an epoch's documents, those kept, in their order.
    """

    def __init__(
        self,
        n_ids: np.ndarray,
        kept: np.ndarray | slice,
        *,
        weight: float,
        order: Callable[[int], np.ndarray],
    ) -> None:
        self.n_pairs = n_ids.astype(np.int64) - 1
        self.n_pairs_an_epoch = int(self.n_pairs[kept].sum())
        self.longest = int(self.n_pairs[kept].max())
        self.weight = weight
        self.order = order
        self.known: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Give the key of each document of an epoch, and the pairs drawn once it is drawn."""
        if epoch not in self.known:
            n_pairs = self.n_pairs[self.order(epoch)]
            after = epoch * self.n_pairs_an_epoch + np.cumsum(n_pairs)
            self.known[epoch] = (after - n_pairs) / self.weight, after
        return self.known[epoch]

    def place_below(self, key: float) -> Place:
        """Give the place at which all documents with smaller keys are drawn, and no other."""
        if key <= 0:
            return 0, 0, 0
        epoch = int(key * self.weight / self.n_pairs_an_epoch)
        while epoch > 0 and self.starts_at(epoch) >= key:
            epoch -= 1
        while self.starts_at(epoch + 1) < key:
            epoch += 1
        keys, after = self.epoch(epoch)
        n_drawn = int(np.searchsorted(keys, key, side="left"))  # at least the first
        n_pairs = int(after[n_drawn - 1])
        return (epoch, n_drawn, n_pairs) if n_drawn < len(keys) else (epoch + 1, 0, n_pairs)

    def starts_at(self, epoch: int) -> float:
        """Give the key of an epoch's first document."""
        return epoch * self.n_pairs_an_epoch / self.weight


def find_places(courses: Mapping[str, Course], n_pairs: int) -> dict[str, Place]:
    """Find the last place, but for documents of equal key, with at most `n_pairs` drawn in all."""

    def places_below(key: float) -> dict[str, Place]:
        return {name: course.place_below(key) for name, course in courses.items()}

    total_weight = sum(course.weight for course in courses.values())
    # a source that is drawn below a key is past it by less than its longest document
    past = sum(course.longest for course in courses.values())
    low = max(0.0, (n_pairs - past) / total_weight * (1 - 1e-9))
    high = n_pairs / total_weight * (1 + 1e-9)
    found = places_below(low)
    if count_pairs(found) > n_pairs:
        raise AssertionError("a place before the one sought lies after it")
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        places = places_below(middle)
        if count_pairs(places) > n_pairs:
            high = middle
        else:
            low, found = middle, places
    return found


def count_pairs(places: Mapping[str, Place]) -> int:
    """Count the pairs drawn from all sources."""
    return sum(n_pairs for _, _, n_pairs in places.values())
