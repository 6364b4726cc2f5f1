"""How fast stage 1 is, beside datatrove's Gopher filters: for `python -m data_tools.benchmark`.

One process, seconds of its own CPU, the best of the repeats. datatrove splits words with spaCy; a
third row gives its filters our words, so that its rules and its tokenizer can be told apart. Our
row "Gopher" does what datatrove's two filters do; "all of stage 1" identifies the language too.
It needs: pip install datatrove spacy xxhash
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

from data_tools.clean.extras import import_extra
from data_tools.clean.filter import FilterSettings, filter_text
from data_tools.clean.language import STOP_WORDS, classify
from data_tools.clean.limits import Limits
from data_tools.clean.rules import GROUPS, find_reason
from data_tools.clean.statistics import TextStatistics
from data_tools.documents import Document

DATATROVE_LANGUAGES = {"de": "deu_Latn", "en": "eng_Latn"}
PUBLISHED = Limits(min_words=50, min_alphabetic_word_share=0.8)  # Rae et al. 2021, as datatrove
Judge = Callable[[str, str], bool]  # text and language -> whether it is kept


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How one set of filters did.

    Attributes:
        name: What was measured.
        megabytes_per_s: UTF-8 bytes of text by seconds of one core.
        kept_share: Of the documents.
        agreement_share: Documents on which it decides as "ours, Gopher" does.
    """

    name: str
    megabytes_per_s: float
    kept_share: float
    agreement_share: float


def choose_documents(documents: Iterable[Document], megabytes: float) -> list[Document]:
    """Choose every n-th document, so that they make about so many megabytes."""
    known = [document for document in documents if document.language in DATATROVE_LANGUAGES]
    n_bytes = sum(len(document.text.encode()) for document in known)
    return known[:: max(round(n_bytes / (megabytes * 1e6)), 1)]


def compare(documents: Sequence[Document], *, n_repeats: int = 3) -> list[Measurement]:
    """Measure our rules and datatrove's on German and English documents.

    Raises:
        DataError: datatrove is not installed.
    """
    if not documents:
        from helix.data import DataError

        raise DataError("no German or English text to measure on; name files a.de.txt, b.en.txt")
    with_spacy, with_our_words = datatrove_judges()
    judges: dict[str, Judge] = {
        "ours, Gopher": judge_by_gopher,
        "ours, all of stage 1": judge_by_stage_1,
        "datatrove, Gopher, spaCy's words": with_spacy,
        "datatrove, Gopher, our words": with_our_words,
    }
    texts = [(document.text, document.language) for document in documents]
    n_bytes = sum(len(text.encode()) for text, _ in texts)
    classify(texts[0][0])  # loads its model: half a second
    decisions: dict[str, list[bool]] = {}
    seconds: dict[str, float] = {}
    for name, judge in judges.items():
        for text, language in texts[:20]:
            judge(text, language)  # loads models and tokenizers
        runs = [time_judge(judge, texts) for _ in range(n_repeats)]
        seconds[name] = min(duration for duration, _ in runs)
        decisions[name] = runs[0][1]
    reference = decisions["ours, Gopher"]
    return [
        Measurement(
            name=name,
            megabytes_per_s=n_bytes / 1e6 / seconds[name],
            kept_share=sum(decided) / len(decided),
            agreement_share=sum(map(bool.__eq__, decided, reference)) / len(decided),
        )
        for name, decided in decisions.items()
    ]


def time_judge(judge: Judge, texts: Sequence[tuple[str, str]]) -> tuple[float, list[bool]]:
    """Time one pass over the texts, in CPU seconds of this process."""
    start = time.process_time()
    decided = [judge(text, language) for text, language in texts]
    return time.process_time() - start, decided


def judge_by_gopher(text: str, language: str) -> bool:
    """Judge by Gopher's rules and the limits as published."""
    return find_reason(TextStatistics(text), language, PUBLISHED, GROUPS["gopher"]) is None


def judge_by_stage_1(text: str, language: str) -> bool:
    """Judge by all that `helix data clean languages=de,en` does by default."""
    return filter_text(text, language, FilterSettings(languages=("de", "en"))).reason is None


def datatrove_judges() -> tuple[Judge, Judge]:
    """Make judges of datatrove's Gopher filters, with its words and with ours."""
    for name in ("datatrove", "spacy"):
        import_extra(name, needed_for="the comparison", how="pip install datatrove spacy xxhash")
    from datatrove.data import Document as TroveDocument  # pyright: ignore[reportMissingImports]
    from datatrove.pipeline.filters import (  # pyright: ignore[reportMissingImports]
        GopherQualityFilter,
        GopherRepetitionFilter,
        gopher_quality_filter,
        gopher_repetition_filter,
    )

    filters: dict[str, list[Any]] = {
        language: [
            GopherRepetitionFilter(language=code),
            GopherQualityFilter(
                language=code,
                stop_words=list(STOP_WORDS[language]),
                max_avg_word_length=15 if language == "de" else 10,
            ),
        ]
        for language, code in DATATROVE_LANGUAGES.items()
    }

    def judge(text: str, language: str) -> bool:
        document = TroveDocument(text=text, id="0")
        return all(filter.filter(document) is True for filter in filters[language])

    def judge_with_our_words(text: str, language: str) -> bool:
        def split(text: str, language: str) -> list[str]:
            return text.split()

        with (
            mock.patch.object(gopher_quality_filter, "split_into_words", split),
            mock.patch.object(gopher_repetition_filter, "split_into_words", split),
        ):
            return judge(text, language)

    return judge, judge_with_our_words
