"""Subjects: what field of knowledge a text is of, by the words that it uses.

    rate of a subject = words on its list per 1,000 words; the highest rate wins

`subjects.json` holds the lists, German and English, for a person to read and mend; "histor*"
stands for all words that begin so. A text with few listed words, or in another language, is
"other". Of 171 documents of the full reference corpus labelled by hand, 78% get the same subject;
of the 85 that the limits below were not set on, 73% (always saying "technology": 56%). It is
weakest where words of all fields meet: of 16 pages of dictionaries, 4 are found to be of language
(`python -m data_tools.value.benchmark`).

Imports nothing heavy, for each worker process loads it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from data_tools.clean.language import settle_by_words
from data_tools.clean.statistics import TextStatistics

LISTS = Path(__file__).with_name("subjects.json")
SUBJECTS = ("history", "geography", "science", "technology", "language", "code", "other")
OTHER = SUBJECTS.index("other")
MIN_RATE = 30.0  # per 1,000 words
MIN_MATCHES = 3
MIN_PREFIX = 3
PUNCTUATION = ".,;:!?\"'()[]{}<>«»„“”\u201a\u2018\u2019`*_=|/\\-\u2013—…#$%&@~"
MAX_REMEMBERED = 2**18  # words; bounds the memory


@dataclass
class WordList:
    """The listed words of one language.

    Attributes:
        words: Subjects of whole words.
        prefixes: Subjects of beginnings of words.
    """

    words: dict[str, int] = field(default_factory=dict)
    prefixes: dict[str, int] = field(default_factory=dict)
    _known: dict[str, int | None] = field(default_factory=dict)

    def find(self, word: str) -> int | None:
        """Give the subject of a word as it stands in a text, or none."""
        if word not in self._known:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[word] = self._look_up(word.strip(PUNCTUATION).lower())
        return self._known[word]

    def _look_up(self, word: str) -> int | None:
        if word in self.words:
            return self.words[word]
        beginnings = (word[:end] for end in range(len(word), MIN_PREFIX - 1, -1))
        return next((self.prefixes[own] for own in beginnings if own in self.prefixes), None)


@cache
def load_lists() -> Mapping[str, WordList]:
    """Read the lists, by language."""
    lists: dict[str, WordList] = {}
    for subject, by_language in json.loads(LISTS.read_text(encoding="utf-8")).items():
        for language, words in by_language.items():
            own = lists.setdefault(language, WordList())
            for word in words:
                target = own.prefixes if word.endswith("*") else own.words
                target[word.removesuffix("*")] = SUBJECTS.index(subject)
    return lists


def count_matches(statistics: TextStatistics, language: str) -> list[int]:
    """Count the words of a text that are on the list of each subject."""
    lists = load_lists()
    found = lists.get(language) or lists.get(settle_by_words(statistics.counts) or "")
    matches = [0] * len(SUBJECTS)
    if found is None:
        return matches
    for word, n_occurrences in statistics.counts.items():
        subject = found.find(word)
        if subject is not None:
            matches[subject] += n_occurrences
    return matches


def find_subject(statistics: TextStatistics, language: str) -> int:
    """Give the number of a text's subject in `SUBJECTS`.

    Args:
        language: ISO 639-1 code; one without lists lets the text's own words decide.
    """
    matches = count_matches(statistics, language)
    most = max(matches)
    if most < MIN_MATCHES or 1000 * most < MIN_RATE * statistics.n_words:
        return OTHER
    return matches.index(most)
