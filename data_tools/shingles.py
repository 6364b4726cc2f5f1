"""Shingles: the runs of n words of a text, as 64-bit hashes.

A word is a run of letters and digits after case folding and NFKC, so that case, spacing and
punctuation do not count. Han, kana and other scripts without spaces give a word per character.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
ASCII_WORD = re.compile(r"[a-z0-9]+")
WORD = re.compile(f"[{UNSPACED}]|[^\\W_{UNSPACED}]+")
IGNORABLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")  # soft hyphen, zero-width marks
CACHED_WORDS = 400_000  # about 60 MB; then the cache of word hashes starts afresh
# splitmix64's constants: Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number Generators"
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)


def split_words(text: str) -> list[str]:
    """List the words of a text, without case, spacing and punctuation."""
    if text.isascii():
        return ASCII_WORD.findall(text.lower())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return WORD.findall(IGNORABLE.sub("", folded))


class WordHashes(dict[str, int]):
    """The 64-bit hash of a word, remembered."""

    def __missing__(self, word: str) -> int:
        """Hash a word that is new."""
        if len(self) >= CACHED_WORDS:
            self.clear()
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = self[word] = int.from_bytes(digest, "little")
        return value


WORD_HASHES = WordHashes()


def hash_words(words: Sequence[str]) -> Hashes:
    """Give the hash of each word."""
    return np.fromiter(map(WORD_HASHES.__getitem__, words), np.uint64, len(words))


def mix(values: Hashes) -> Hashes:
    """Spread every bit of 64 over all of them (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * MIX_1
    values = (values ^ (values >> np.uint64(27))) * MIX_2
    return values ^ (values >> np.uint64(31))


def multipliers(n: int) -> Hashes:
    """Give n odd numbers, always the same."""
    return mix(np.arange(1, n + 1, dtype=np.uint64) * GOLDEN) | np.uint64(1)


def hash_ngrams(words: Hashes, n: int) -> Hashes:
    """Hash the run of n words that starts at each word; none if there are fewer than n words."""
    n_runs = len(words) - n + 1
    if n_runs < 1:
        return np.empty(0, np.uint64)
    total = np.full(n_runs, n, np.uint64)
    for j, factor in enumerate(multipliers(n)):
        total += words[j : j + n_runs] * factor
    return mix(total)


def hash_shingles(words: Hashes, n: int) -> Hashes:
    """Give the set of n-word runs, sorted; a text of fewer words is one run."""
    return np.unique(hash_ngrams(words, min(n, len(words)))) if len(words) else words


def jaccard(left: Hashes, right: Hashes) -> float:
    """Give the share of the shingles of either set that both have; sets sorted, not empty."""
    n_common = len(np.intersect1d(left, right, assume_unique=True))
    return n_common / (len(left) + len(right) - n_common)
