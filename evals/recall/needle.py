"""Needles in a haystack: short facts at several depths of a text, each asked for at its end.

The facts are of one form and differ in name and number, so that a number is right only if it was
heard with its name. All needles lie in one row, at depths from 0 (its start) to 100 (its end).

Source: the form with several keys of Hsieh et al. 2024, arXiv:2404.06654 (RULER), section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evals.recall.haystacks import Haystack
from evals.recall.items import Answer, Item, TooShortError
from helix.tokenizer import Tokenizer

DEPTHS = (0, 25, 50, 75, 100)  # percent of the filler before the needle
FORMS = {
    "de": "Die Zahl von {name} lautet",
    "en": "The number of {name} is",
}
NAMES = (
    "Anna",
    "Boris",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Greta",
    "Hugo",
    "Irene",
    "Jakob",
    "Karla",
    "Leo",
    "Maria",
    "Norbert",
    "Olga",
    "Paul",
)
FIRST_DIGITS = np.arange(1, 10)
N_DIGITS = 5


@dataclass(frozen=True)
class Needle:
    """A fact as ids: `given`, then `number`.

    Attributes:
        given: Up to where the numbers of a row begin to differ.
    """

    given: list[int]
    number: list[int]


def draw_needles(
    tokenizer: Tokenizer, haystack: Haystack, length: int, rng: np.random.Generator
) -> Item:
    """Draw a row of exactly `length` ids to read.

    Raises:
        TooShortError: Needles and questions alone are longer.
    """
    needles = draw_facts(tokenizer, haystack.language, rng)
    end = tokenizer.encode("\n")
    asked = rng.permutation(len(needles)).tolist()
    facts = [[*end, *needle.given, *needle.number, *end] for needle in needles]
    questions = [[*end, *needles[n].given, *needles[n].number] for n in asked]
    n_filler = length - sum(map(len, facts)) - sum(map(len, questions))
    if n_filler < len(DEPTHS):
        raise TooShortError(f"needs at least {length - n_filler + len(DEPTHS)} tokens")
    filler = cut_filler(haystack, n_filler, rng)
    ids = [tokenizer.bos_id, *hide(facts, filler)]
    answers = []
    candidates = tuple(sorted(needle.number[0] for needle in needles))
    for number, question in zip(asked, questions, strict=True):
        ids += question
        n_tokens = len(needles[number].number)
        answers.append(
            Answer(
                start=len(ids) - n_tokens,
                n_tokens=n_tokens,
                candidates=candidates,
                part=f"depth_{DEPTHS[number]}",
            )
        )
    return Item(np.array(ids), tuple(answers))


def draw_facts(tokenizer: Tokenizer, language: str, rng: np.random.Generator) -> list[Needle]:
    """Draw one fact for each depth; their numbers differ from the first id that may differ."""
    form = FORMS.get(language, FORMS["en"])
    names = rng.choice(NAMES, len(DEPTHS), replace=False).tolist()
    while True:
        # a first digit each, as some vocabularies hold digits alone
        digits = rng.choice(FIRST_DIGITS, len(DEPTHS), replace=False)
        rests = rng.integers(0, 10 ** (N_DIGITS - 1), len(DEPTHS))
        numbers = [
            tokenizer.encode(f" {first}{rest:0{N_DIGITS - 1}}.")
            for first, rest in zip(digits, rests, strict=True)
        ]
        shared = count_shared(numbers)
        if len({number[shared] for number in numbers}) == len(numbers):
            break
    return [
        Needle(
            given=[*tokenizer.encode(form.format(name=name)), *number[:shared]],
            number=number[shared:],
        )
        for name, number in zip(names, numbers, strict=True)
    ]


def count_shared(rows: Sequence[Sequence[int]]) -> int:
    """Count the leading ids that all rows share."""
    n_shared = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        n_shared += 1
    return n_shared


def cut_filler(haystack: Haystack, n_tokens: int, rng: np.random.Generator) -> list[int]:
    """Cut filler out of a text, from anywhere; the text is begun again where it ends."""
    start = int(rng.integers(len(haystack.ids)))
    return np.resize(np.roll(haystack.ids, -start), n_tokens).tolist()


def hide(facts: Sequence[Sequence[int]], filler: Sequence[int]) -> list[int]:
    """Put each fact at its depth into the filler."""
    ids: list[int] = []
    done = 0
    for depth, fact in zip(DEPTHS, facts, strict=True):
        place = len(filler) * depth // 100
        ids += [*filler[done:place], *fact]
        done = place
    return [*ids, *filler[done:]]
