"""Repetition: Gopher's shares of a text that are said again.

The fractions are datatrove's (gopher_repetition_filter.py, 0.10.1) on words of ours, but for one:
a top n-gram must occur twice, or any text of a few long words would be repetition. Most texts are
far from every limit, so each fraction is worked out only where a bound on it does not settle it.

Source: Rae et al. 2021, arXiv:2112.11446, table A1.
"""

from collections.abc import Sequence

import numpy as np

from data_tools.clean.statistics import TextStatistics

FIRST_DUPLICATE_N = 5  # table A1: duplicates are counted for n-grams of 5 to 10 words


def has_top_gram_over(statistics: TextStatistics, n: int, limit: float) -> bool:
    """Tell whether the most frequent run of `n` words fills more than `limit` of the text."""
    allowed = limit * len(statistics.text)
    if n * statistics.heaviest_word_bound <= allowed or statistics.n_words < n:
        return False  # each of its n words fills at least as much by itself
    if top_gram_bound(statistics, n) <= allowed:
        return False
    return top_gram_characters(statistics, n) > allowed


def top_gram_characters(statistics: TextStatistics, n: int) -> int:
    """Count the characters of the most frequent run of `n` words, of the longest if several are.

    Occurrences may overlap; the spaces between the words count. One occurrence is none.
    """
    _, first, counts = np.unique(statistics.gram_hashes(n), return_index=True, return_counts=True)
    most = int(counts.max(initial=0))
    if most < 2:
        return 0
    starts = first[counts == most]
    ends = statistics.word_ends
    return most * (int((ends[starts + n] - ends[starts]).max()) + n - 1)


def top_gram_bound(statistics: TextStatistics, n: int) -> int:
    """Bound `top_gram_characters` from above: as often as the most frequent, as long as any."""
    ordered = np.sort(statistics.gram_hashes(n))
    changes = np.flatnonzero(ordered[1:] != ordered[:-1])
    edges = np.concatenate(([-1], changes, [len(ordered) - 1]))
    return int(np.diff(edges).max()) * (longest_gram_characters(statistics, n) + n - 1)


def has_duplicate_grams_over(
    statistics: TextStatistics, limits: Sequence[tuple[int, float]]
) -> bool:
    """Tell whether repeated runs of words fill too much of the text.

    Args:
        limits: Words of a run, at least 5, and the share of the text's characters allowed.
    """
    n_characters = len(statistics.text)
    # a repeated run of more words lies within repeated runs of 5: their cover bounds them all
    least = min(limit for _, limit in limits) * n_characters
    if repeated_cover_bound(statistics, FIRST_DUPLICATE_N) <= least:
        return False
    cover = repeated_cover_characters(statistics, FIRST_DUPLICATE_N)
    return any(
        cover > limit * n_characters
        and repeated_cover_characters(statistics, n) > limit * n_characters
        and duplicate_characters(statistics.words, n) > limit * n_characters
        for n, limit in limits
    )


def repeated_cover_bound(statistics: TextStatistics, n: int) -> int:
    """Bound `repeated_cover_characters` from above: all the longest, none overlapping."""
    if statistics.n_words < n:
        return 0
    ordered = np.sort(statistics.gram_hashes(n))
    n_repeats = int(np.count_nonzero(ordered[1:] == ordered[:-1]))
    return n_repeats * longest_gram_characters(statistics, n) if n_repeats else 0


def longest_gram_characters(statistics: TextStatistics, n: int) -> int:
    """Count the characters of the longest run of `n` words, without spaces."""
    ends = statistics.word_ends
    return int((ends[n:] - ends[:-n]).max())


def repeated_cover_characters(statistics: TextStatistics, n: int) -> int:
    """Count the characters of words within a run of `n` words that stood before already."""
    if statistics.n_words < n:
        return 0
    hashes = statistics.gram_hashes(n)
    _, first = np.unique(hashes, return_index=True)
    repeats = np.ones(len(hashes), dtype=bool)
    repeats[first] = False
    starts = np.flatnonzero(repeats)
    # each run adds what the run before it does not cover already
    begins = np.concatenate((starts[:1], np.maximum(starts[1:], starts[:-1] + n)))
    begins = np.minimum(begins, starts + n)
    ends = statistics.word_ends
    return int((ends[starts + n] - ends[begins]).sum())


def duplicate_characters(words: Sequence[str], n: int) -> int:
    """Count the characters of runs of `n` words that stood before, none counted twice."""
    seen: set[str] = set()
    n_characters = start = 0
    while start <= len(words) - n:
        gram = "".join(words[start : start + n])
        if gram in seen:
            n_characters += len(gram)
            start += n
        else:
            seen.add(gram)
            start += 1
    return n_characters
