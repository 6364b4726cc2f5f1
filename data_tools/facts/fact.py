"""A fact in both languages, before it becomes an item of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evals.items import LANGUAGES, Item


@dataclass(frozen=True)
class Wording:
    """The same in both languages."""

    de: str
    en: str

    def within(self, language: str) -> str:
        """Give the wording of a language."""
        return self.de if language == "de" else self.en


@dataclass(frozen=True)
class Candidate:
    """A possible answer.

    Attributes:
        group: Where it stands among those of its kind, from wide to narrow, as "europe/west".
    """

    wording: Wording
    group: str


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A statement without its end, the right end and wrong ones by hardness."""

    id: str
    category: str
    relation: str
    prompt: Wording
    answer: Wording
    distractors: Mapping[str, Sequence[Wording]]
    source: str
    licence: str

    def items(self) -> Iterator[Item]:
        """Yield the item of each language."""
        for language in LANGUAGES:
            yield Item(
                id=self.id,
                language=language,
                category=self.category,
                relation=self.relation,
                prompt=self.prompt.within(language),
                answer=self.answer.within(language),
                distractors={
                    hardness: [wording.within(language) for wording in wordings]
                    for hardness, wordings in self.distractors.items()
                },
                source=self.source,
                licence=self.licence,
            )
