"""What a worker does: the score and the subject of each text of a batch.

Imports nothing heavy, for each worker process loads it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from data_tools.clean.statistics import TextStatistics
from data_tools.value.features import READ_CHARACTERS
from data_tools.value.scorer import Scorer
from data_tools.value.subjects import find_subject


class Judgement(NamedTuple):
    """What is found of a text.

    Attributes:
        step: Of its score: `Scorer.to_score`.
        subject: Number in `SUBJECTS`.
    """

    step: int
    subject: int


def judge_texts(texts: Sequence[tuple[str, str]], *, scorer: Scorer) -> list[Judgement]:
    """Judge texts, each with its language and each for itself."""
    return [judge_text(text, language, scorer) for text, language in texts]


def judge_text(text: str, language: str, scorer: Scorer) -> Judgement:
    """Judge the beginning of a text."""
    statistics = TextStatistics(text[:READ_CHARACTERS])
    return Judgement(scorer.score_step(statistics), find_subject(statistics, language))
