"""Features of a text: hashed words, pairs of words and runs of characters, and its form.

    x = (frequency in each of 3 x 65,536 buckets, FORMS)

No language is assumed: a word is a run of letters, marks and digits, any other character that is
no white space is a word of its own. Case is folded, and all digits are one. A run s of characters
starting at i is hashed as (P[i + len(s)] - P[i]) * B^-i with P the prefix sums of (code + 1) * B^i
modulo 2^64, so all words of a text are hashed at once.

Imports nothing heavy, for each worker process loads it.
"""

import sys
import unicodedata
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from data_tools.clean.rules import BULLETS, SENTENCE_ENDS
from data_tools.clean.statistics import TextStatistics

VERSION = 1  # of all that is below: a scorer made with another one is refused
READ_CHARACTERS = 2**16  # of a longer text only the beginning is read; this bounds the memory
GROUPS = ("words", "pairs of words", "runs of characters")
BUCKET_BITS = 16
N_BUCKETS = 2**BUCKET_BITS
RUN_CHARACTERS = 4
FORMS = (
    "log_words",
    "characters_per_word",
    "log_words_per_line",
    "log_distinct_words",
    "sentence_line_share",
    "bullet_line_share",
    "duplicate_line_share",
    "capital_share",
    "digit_share",
    "symbol_share",
)
SPACE, LETTER, CAPITAL, DIGIT, SYMBOL = range(5)

# odd, so that there is an inverse modulo 2^64; bits well mixed: 2^64 / golden ratio
BASE = 0x9E3779B97F4A7C15
MIX = np.uint64(0xD6E8FEB86659FD93)  # odd: the high bits of a product depend on all bits
NEXT = np.uint64(0xA0761D6478BD642F)  # odd: a pair of words is not the pair in reverse

Hashes = NDArray[np.uint64]
Buckets = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Features:
    """What a scorer knows of a text.

    Attributes:
        buckets: For each of `GROUPS`, where each of its runs falls.
        form: In the order of `FORMS`.
    """

    buckets: tuple[Buckets, ...]
    form: NDArray[np.float64]


def read_features(statistics: TextStatistics) -> Features:
    """Work out the features of a text of at most `READ_CHARACTERS`."""
    kinds, folded = character_tables()
    data = statistics.text.encode("utf-32-le", "surrogatepass")
    points = np.frombuffer(data, dtype=np.uint32)
    own_kinds = kinds[points]
    prefixes = hash_prefixes(folded[points])
    starts, ends = find_words(own_kinds)
    words = hash_runs(prefixes, starts, ends)
    run_starts = np.arange(max(len(points) - RUN_CHARACTERS + 1, 0))
    runs = hash_runs(prefixes, run_starts, run_starts + RUN_CHARACTERS)
    groups = (words, words[:-1] * NEXT + words[1:], runs)
    return Features(
        buckets=tuple(to_buckets(hashes) for hashes in groups),
        form=describe_form(statistics, np.bincount(own_kinds, minlength=5)),
    )


def find_words(kinds: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Give where words start and end, a symbol being a word of its own."""
    classes = np.array([0, 1, 1, 1, 2], dtype=np.uint8)[kinds]
    bounded = np.concatenate(([0], classes, [0])).astype(np.uint8)
    is_cut = (bounded[1:] != bounded[:-1]) | (bounded[1:] == 2)
    starts = np.flatnonzero(is_cut[:-1] & (classes > 0))
    is_end = is_cut[1:] | (classes == 2)
    return starts, np.flatnonzero(is_end & (classes > 0)) + 1


def hash_prefixes(points: NDArray[np.uint32]) -> Hashes:
    """Sum (code + 1) * B^i over the first characters, for every number of them."""
    powers, _ = power_tables()
    prefixes = np.zeros(len(points) + 1, dtype=np.uint64)
    np.cumsum((points.astype(np.uint64) + np.uint64(1)) * powers[: len(points)], out=prefixes[1:])
    return prefixes


def hash_runs(prefixes: Hashes, starts: NDArray[np.intp], ends: NDArray[np.intp]) -> Hashes:
    """Hash runs of characters, wherever in the text they stand."""
    _, inverses = power_tables()
    return (prefixes[ends] - prefixes[starts]) * inverses[starts]


def to_buckets(hashes: Hashes) -> Buckets:
    """Take a bucket from each hash."""
    mixed = (hashes ^ (hashes >> np.uint64(32))) * MIX
    return (mixed >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)


def describe_form(statistics: TextStatistics, n_by_kind: NDArray[np.intp]) -> NDArray[np.float64]:
    """Work out `FORMS`; none divides by nothing."""
    n_words, n_lines = max(statistics.n_words, 1), max(len(statistics.lines), 1)
    n_characters = max(int(n_by_kind[LETTER:].sum()), 1)
    lines = statistics.lines
    return np.array(
        [
            np.log1p(statistics.n_words),
            statistics.n_word_characters / n_words,
            np.log1p(n_words / n_lines),
            np.log1p(len(statistics.counts)),
            sum(line.endswith(SENTENCE_ENDS) for line in lines) / n_lines,
            sum(line.startswith(BULLETS) for line in lines) / n_lines,
            statistics.n_line_duplicates[0] / n_lines,
            n_by_kind[CAPITAL] / n_characters,
            n_by_kind[DIGIT] / n_characters,
            n_by_kind[SYMBOL] / n_characters,
        ],
        dtype=np.float64,
    )


@cache
def character_tables() -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Give the kind of every character, and what it is folded to; a fifth of a second."""
    n_points = sys.maxunicode + 1
    kinds = np.full(n_points, SYMBOL, dtype=np.uint8)
    folded = np.arange(n_points, dtype=np.uint32)
    for point in range(n_points):
        character = chr(point)
        category = unicodedata.category(character)
        if category in ("Cn", "Co", "Cs"):
            continue
        if category[0] in "LM":
            kinds[point] = CAPITAL if category == "Lu" else LETTER
            lower = character.lower()
            folded[point] = ord(lower) if len(lower) == 1 else point
        elif category[0] == "N":
            kinds[point] = DIGIT
            folded[point] = ord("0")
        elif character.isspace():
            kinds[point] = SPACE
            folded[point] = point if character == "\n" else ord(" ")
    return kinds, folded


@cache
def power_tables() -> tuple[Hashes, Hashes]:
    """Give the powers of the base modulo 2^64, and their inverses."""
    modulus = 2**64
    tables = []
    for factor in (BASE, pow(BASE, -1, modulus)):
        powers = np.full(READ_CHARACTERS, factor, dtype=np.uint64)
        powers[0] = 1
        tables.append(np.cumprod(powers))
    return tables[0], tables[1]
