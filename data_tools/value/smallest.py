"""The few smallest of many: a choice that does not depend on the order in which they come."""

import heapq
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Item]):
    """An item that compares the wrong way round, for heapq keeps the largest at hand only so."""

    key: Any
    item: Item

    def __lt__(self, other: "_Entry[Item]") -> bool:
        return other.key < self.key


class Smallest(Generic[Item]):
    """Keeps the `n` items with the smallest keys.

    Attributes:
        n_offered: How many there were.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.n_offered = 0
        self._heap: list[_Entry[Item]] = []

    def offer(self, key: Any, item: Item) -> None:
        """Keep an item if its key is among the smallest; of equal keys the first is kept."""
        self.n_offered += 1
        if len(self._heap) < self.n:
            heapq.heappush(self._heap, _Entry(key, item))
        elif self.n and key < self._heap[0].key:
            heapq.heapreplace(self._heap, _Entry(key, item))

    def items(self) -> list[Item]:
        """List the items by key."""
        return [entry.item for entry in sorted(self._heap, key=lambda entry: entry.key)]
