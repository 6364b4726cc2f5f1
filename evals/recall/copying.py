"""Copying: a random sequence, a separator, and the same sequence again.

Source: Jelassi et al. 2024, arXiv:2402.01032: a state of fixed size cannot hold a sequence that is
longer than its bits.
"""

import numpy as np

from evals.recall.items import Answer, Item, TooShortError
from evals.recall.symbols import Symbols
from helix.tokenizer import Tokenizer

N_CUE = 4  # first ids of the copy, which are given: from there on it is plain what is asked for
LEAST_ANSWER = 8


def draw_copying(
    tokenizer: Tokenizer, symbols: Symbols, length: int, rng: np.random.Generator
) -> Item:
    """Draw a row of exactly `length` ids to read.

    Raises:
        TooShortError: There is no room for a sequence worth copying.
    """
    separator = tokenizer.encode("\n")
    n_symbols = (length - len(separator)) // 2
    if n_symbols < N_CUE + LEAST_ANSWER:
        raise TooShortError(f"needs at least {2 * (N_CUE + LEAST_ANSWER) + len(separator)} tokens")
    n_spare = length - len(separator) - 2 * n_symbols
    sequence = rng.choice(symbols.all, n_symbols)
    between = [*separator, *separator[:n_spare]]
    ids = np.concatenate(([tokenizer.bos_id], sequence, between, sequence))
    n_answer = n_symbols - N_CUE
    return Item(ids, (Answer(start=len(ids) - n_answer, n_tokens=n_answer),))
