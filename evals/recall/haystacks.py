"""Haystacks: the text that hides needles, of a run's held-out documents or of a few sentences."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evals.contract import hash_texts
from evals.examinee import Examinee, held_out_text
from evals.recall.plan import RecallOptions
from helix.tokenizer import Tokenizer

NEUTRAL = (
    "The grass on the hill is green. The sky above it is blue. A small road leads down to the "
    "river, and a bridge leads over it. In the evening people come back from the fields. ",
)


@dataclass(frozen=True)
class Haystack:
    """Text that hides needles.

    Attributes:
        language: ISO 639 code: needles are of the same, or English.
        fingerprint: Hash of the text that `ids` were taken from.
        ids: Of the text; it is begun again where it ends.
    """

    language: str
    fingerprint: str
    ids: NDArray[np.int64]


def open_haystacks(
    examinee: Examinee, options: RecallOptions, lengths: Sequence[int]
) -> list[Haystack]:
    """Read as much text of each source as the longest row needs; rows take sources in turn.

    Raises:
        ConfigError: The model is not of a run and no run is named.
        DataError: The dataset is missing or damaged.
    """
    if not lengths:
        return []
    tokenizer, n_tokens = examinee.tokenizer, lengths[-1]
    if options.filler == "neutral":
        return [Haystack("en", hash_texts(NEUTRAL), take(tokenizer, NEUTRAL, n_tokens))]
    return [
        Haystack(source.language, source.fingerprint, take(tokenizer, source.texts(), n_tokens))
        for source in held_out_text(examinee, options, max_bytes=None)
    ]


def take(tokenizer: Tokenizer, texts: Iterable[str], n_tokens: int) -> NDArray[np.int64]:
    """Encode texts, a line between them, until there are so many ids or no more text."""
    ids: list[int] = []
    for text in texts:
        ids += tokenizer.encode(text + "\n")
        if len(ids) >= n_tokens:
            break
    return np.array(ids)
