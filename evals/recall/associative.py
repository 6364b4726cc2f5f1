"""Multi-query associative recall: pairs of a key and a value, then keys again.

    k1 v1 k2 v2 ... kN vN  k7 -> v7  k2 -> v2 ...

Pairs fill the row but for the queries, so their number grows with its length. A model whose memory
has a fixed size loses some of them; one that attends to everything need not.

Source: Arora et al. 2023, arXiv:2312.04927, section 3.1; their rows have gaps between queries.
"""

import numpy as np
from numpy.typing import NDArray

from evals.recall.items import Answer, Item, TooShortError
from evals.recall.symbols import Symbols

N_QUERIES = 32  # at most; at most a third of the pairs and queries, too
N_CANDIDATES = 8
LEAST_SLOTS = 6


def draw_associative(
    symbols: Symbols, length: int, *, bos_id: int, rng: np.random.Generator
) -> Item:
    """Draw a row of exactly `length` ids to read.

    Raises:
        TooShortError: There is no room for some pairs.
    """
    n_pairs, n_queries, n_key = share_slots(symbols, length)
    keys = draw_keys(symbols, n_pairs, n_tokens=n_key, rng=rng)
    values = rng.choice(symbols.values, n_pairs)
    asked = rng.permutation(n_pairs)[:n_queries]
    order = np.concatenate((np.arange(n_pairs), asked))
    slots = np.concatenate((keys, values[:, None]), axis=1)[order]
    n_spare = length - (len(order) * (n_key + 1))
    spare = rng.choice(symbols.values, n_spare)  # what a length leaves that no slot fits into
    ids = np.concatenate(([bos_id], spare, slots.ravel()))
    first = 1 + n_spare + n_pairs * (n_key + 1) + n_key
    answers = tuple(
        Answer(
            start=first + query * (n_key + 1),
            n_tokens=1,
            candidates=draw_candidates(values, int(values[pair]), rng),
        )
        for query, pair in enumerate(asked)
    )
    return Item(ids, answers)


def share_slots(symbols: Symbols, length: int) -> tuple[int, int, int]:
    """Share a length out.

    Returns:
        Pairs, queries, and ids of a key.
    """
    n_key = 1
    while True:
        n_slots = length // (n_key + 1)
        n_queries = min(N_QUERIES, n_slots // 3)
        n_pairs = n_slots - n_queries
        if n_slots < LEAST_SLOTS:
            raise TooShortError(f"needs at least {LEAST_SLOTS * (n_key + 1)} tokens")
        if symbols.key_tokens(n_pairs) <= n_key:
            return n_pairs, n_queries, n_key
        n_key += 1


def draw_keys(
    symbols: Symbols, n_keys: int, *, n_tokens: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw different keys, one a row."""
    base = len(symbols.keys)
    numbers = rng.choice(base**n_tokens, n_keys, replace=False)
    digits = numbers[:, None] // base ** np.arange(n_tokens)[::-1] % base
    return np.array(symbols.keys)[digits]


def draw_candidates(
    values: NDArray[np.int64], right: int, rng: np.random.Generator
) -> tuple[int, ...]:
    """Draw what the right value is chosen among: other values of the same row."""
    others = np.unique(values)
    others = others[others != right]
    wrong = rng.choice(others, min(N_CANDIDATES - 1, len(others)), replace=False)
    return tuple(sorted((right, *wrong.tolist())))
