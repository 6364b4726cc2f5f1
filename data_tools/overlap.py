"""Overlap: the word runs of evaluation items, found in texts.

A passage of an item overlaps where any of its runs of `ngram_words` words occurs; a shorter one
where it occurs whole. Imports nothing heavy (processes.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.shingles import Hashes, hash_ngrams, hash_words, split_words


@dataclass(frozen=True)
class Item:
    """One line of an evaluation file.

    Attributes:
        file: Number of the file.
        name: Its "id", else its line.
        passages: Words of the strings that are looked for; none if it cannot be checked.
    """

    file: int
    name: str
    passages: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Overlap:
    """An item found in a document: how many of its runs, and the words of the first."""

    item: int
    n_runs: int
    words: str


@dataclass(frozen=True)
class RunTable:
    """All runs of `n_words` words of the items, sorted by hash.

    Attributes:
        places: Item, passage, and word at which each run starts, (N, 3).
        may_contain: Whether any hash has these leading bits.
        shift: Bits of a hash that those do not cover.
    """

    n_words: int
    hashes: Hashes
    places: NDArray[np.int64]
    may_contain: NDArray[np.bool_]
    shift: np.uint64

    @staticmethod
    def build(n_words: int, hashes: Hashes, places: NDArray[np.int64]) -> "RunTable":
        """Sort runs and note the leading bits of their hashes."""
        order = np.argsort(hashes, kind="stable")
        n_bits = min(max(16, (8 * len(hashes)).bit_length()), 28)
        shift = np.uint64(64 - n_bits)
        may_contain = np.zeros(1 << n_bits, np.bool_)
        may_contain[hashes >> shift] = True
        return RunTable(n_words, hashes[order], places[order], may_contain, shift)

    def find(self, words: Hashes) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the word at which a known run starts, and the runs of the items it may be."""
        runs = hash_ngrams(words, self.n_words)
        starts = np.flatnonzero(self.may_contain[runs >> self.shift])
        lows = np.searchsorted(self.hashes, runs[starts], "left")
        highs = np.searchsorted(self.hashes, runs[starts], "right")
        for start, low, high in zip(starts, lows, highs, strict=True):
            if low < high:
                yield int(start), self.places[low:high]


@dataclass(frozen=True)
class EvaluationIndex:
    """The items of all evaluation files, and tables of their runs by length."""

    items: tuple[Item, ...]
    tables: tuple[RunTable, ...]

    @staticmethod
    def build(items: Sequence[Item], *, ngram_words: int) -> "EvaluationIndex":
        """Index the runs of the items."""
        hashes: dict[int, list[Hashes]] = {}
        places: dict[int, list[NDArray[np.int64]]] = {}
        for number, item in enumerate(items):
            for passage, words in enumerate(item.passages):
                n_words = min(ngram_words, len(words))
                runs = hash_ngrams(hash_words(words), n_words)
                place = np.empty((len(runs), 3), np.int64)
                place[:, 0], place[:, 1], place[:, 2] = number, passage, np.arange(len(runs))
                hashes.setdefault(n_words, []).append(runs)
                places.setdefault(n_words, []).append(place)
        tables = (
            RunTable.build(n, np.concatenate(hashes[n]), np.concatenate(places[n]))
            for n in sorted(hashes)
        )
        return EvaluationIndex(tuple(items), tuple(tables))

    def find(self, text: str) -> list[Overlap]:
        """Find the items that a text overlaps; words are compared, not hashes alone."""
        words = split_words(text)
        hashes = hash_words(words)
        runs: dict[int, int] = {}
        firsts: dict[int, str] = {}
        for table in self.tables:
            for start, places in table.find(hashes):
                run = tuple(words[start : start + table.n_words])
                for item in self.items_with(run, places):
                    runs[item] = runs.get(item, 0) + 1
                    firsts.setdefault(item, " ".join(run))
        return [Overlap(item, runs[item], firsts[item]) for item in sorted(runs)]

    def items_with(self, run: tuple[str, ...], places: NDArray[np.int64]) -> set[int]:
        """Give the items that have these words at one of the places."""
        return {
            item
            for item, passage, at in places.tolist()
            if self.items[item].passages[passage][at : at + len(run)] == run
        }


def find_overlaps(texts: Sequence[str], *, index: EvaluationIndex) -> list[list[Overlap]]:
    """Find the items that each text overlaps."""
    return [index.find(text) for text in texts]
