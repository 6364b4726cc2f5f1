"""What the rules of cleaning ask of a text, worked out once for all of them.

Words are what lies between white space: a tokenizer of linguists (datatrove's rules use spaCy)
costs a hundred times the rules. So a comma counts to its word.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from operator import mul

import numpy as np
from numpy.typing import NDArray

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, bits well mixed: 2**64 / golden ratio


class TextStatistics:
    """One text and its counts.

    Attributes:
        text: The text itself.
        words: What lies between white space, in order.
        counts: How often each word occurs.
        lines: The lines that hold more than white space, without it at their ends.
        n_word_characters: Characters that are not white space.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.words = text.split()
        self.counts = Counter(self.words)
        self.lines = [line for raw in text.split("\n") if (line := raw.strip())]
        self.n_word_characters = len("".join(self.words))

    @property
    def n_words(self) -> int:
        """How many words there are."""
        return len(self.words)

    @cached_property
    def paragraphs(self) -> list[str]:
        """What lies between empty lines."""
        parts = self.text.split("\n\n")
        return [paragraph for part in parts if (paragraph := part.strip())]

    @cached_property
    def n_line_duplicates(self) -> tuple[int, int]:
        """How many lines stood before already, and their characters."""
        return count_duplicates(self.lines)

    @cached_property
    def n_paragraph_duplicates(self) -> tuple[int, int]:
        """How many paragraphs stood before already, and their characters."""
        return count_duplicates(self.paragraphs)

    @cached_property
    def heaviest_word_bound(self) -> int:
        """Bound the characters, a space each included, that any one word fills in all."""
        counts = self.counts.values()
        return max(map(mul, counts, map(len, self.counts)), default=0) + max(counts, default=0)

    @cached_property
    def word_hashes(self) -> NDArray[np.uint64]:
        """A 64-bit hash per word: two different words are taken for one once in 2**64 pairs."""
        hashes = np.fromiter(map(hash, self.words), dtype=np.int64, count=len(self.words))
        return hashes.view(np.uint64)

    @cached_property
    def word_ends(self) -> NDArray[np.int64]:
        """Characters of the words before each word, and of all words at last; no spaces."""
        ends = np.zeros(len(self.words) + 1, dtype=np.int64)
        lengths = np.fromiter(map(len, self.words), dtype=np.int64, count=len(self.words))
        np.cumsum(lengths, out=ends[1:])
        return ends

    def gram_hashes(self, n: int) -> NDArray[np.uint64]:
        """Give a hash for each run of `n` words; do not write into it."""
        known = self._gram_hashes
        while len(known) < n:
            shorter = known[-1][:-1]
            mixed = shorter * MULTIPLIER
            mixed ^= mixed >> np.uint64(29)
            mixed += self.word_hashes[len(known) :]
            known.append(mixed)
        return known[n - 1]

    @cached_property
    def _gram_hashes(self) -> list[NDArray[np.uint64]]:
        return [self.word_hashes]


def count_duplicates(parts: Sequence[str]) -> tuple[int, int]:
    """Count the parts that are equal to an earlier one, and their characters."""
    if len(set(parts)) == len(parts):
        return 0, 0
    seen: set[str] = set()
    n_duplicates = n_characters = 0
    for part in parts:
        if part in seen:
            n_duplicates += 1
            n_characters += len(part)
        else:
            seen.add(part)
    return n_duplicates, n_characters
