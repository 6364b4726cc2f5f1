"""Rules that every item must keep; each finding names the item."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from data_tools.facts.choose import is_given_away
from evals.items import CATEGORIES, HARDNESSES, LANGUAGES, Item

LEAST_ITEMS = 400  # a language
LEAST_OF_A_CATEGORY = 60  # and language
LEAST_DISTRACTORS = 2
# their answers may repeat the stem of the prompt's word, or are symbols and figures
STEM_IS_SHARED = ("plural", "past", "symbol", "formula", "year", "atomic_number", "opposite")
NEEDS_ARTICLE = re.compile(
    r"\bvon (Schweiz|Türkei|Slowakei|Mongolei|Ukraine|Niederlande|Philippinen|Malediven|"
    r"Vereinigte|Zentralafrikanische|Dominikanische|Demokratische|Irak|Iran|Libanon|Jemen|Sudan|"
    r"Südsudan|Tschad|Niger|Senegal|Kongo|Komoren|Bahamas|Elfenbeinküste)\b"
)
NEEDS_THE = re.compile(
    r"\bof (Philippines|Netherlands|Maldives|Bahamas|Gambia|United|Central|Dominican|Democratic)\b"
)


def check_items(items: Sequence[Item]) -> list[str]:
    """Find what is wrong with a set of items; an empty list is a sound set."""
    findings = [f"{item.language} {item.id}: {said}" for item in items for said in check_item(item)]
    return findings + list(check_set(items))


def check_item(item: Item) -> Iterator[str]:
    """Find what is wrong with one item."""
    yield from check_prompt(item)
    yield from check_candidates(item)
    if {*item.distractors} != {*HARDNESSES}:
        yield f"has the hardnesses {', '.join(item.distractors)}"
    if item.category not in CATEGORIES:
        yield f"is of the unknown category {item.category}"
    for hardness, texts in item.distractors.items():
        if len(texts) < LEAST_DISTRACTORS:
            yield f"has {len(texts)} {hardness} distractors"


def check_prompt(item: Item) -> Iterator[str]:
    """Find a prompt that is wrong German or English, or says the answer."""
    if item.prompt != " ".join(item.prompt.split()) or item.prompt[-1] in ".:?!,":
        yield "has a prompt with stray spaces, or that ends as a sentence does"
    if not item.prompt[0].isupper():
        yield "has a prompt that begins in lower case"
    if re.search(rf"\b{re.escape(item.answer)}\b", item.prompt, re.IGNORECASE):
        yield "has its answer in the prompt"
    if item.relation not in STEM_IS_SHARED and is_given_away(item.prompt, item.answer):
        yield "has a prompt that gives the answer's beginning away"
    needed = NEEDS_ARTICLE if item.language == "de" else NEEDS_THE
    if found := needed.search(item.prompt):
        yield f"lacks an article in {found[0]!r}"


def check_candidates(item: Item) -> Iterator[str]:
    """Find candidates that are not of one form, or that stand there twice."""
    wrong = [text for texts in item.distractors.values() for text in texts]
    for text, times in Counter(text.casefold() for text in [item.answer, *wrong]).items():
        if times > 1 and item.relation not in ("formula", "symbol"):
            yield f"has {text!r} {times} times among its candidates"
    if len({item.answer, *wrong}) != 1 + len(wrong):
        yield "has one candidate twice"
    for text in wrong:
        if text != text.strip() or text.endswith((",", ":", "?")):
            yield f"has the distractor {text!r} with stray characters"
        if letter_kind(text) != letter_kind(item.answer):
            yield f"has {text!r} beside {item.answer!r}: digits or capitals differ"
        if item.answer.isdigit() and len(text) != len(item.answer):
            yield f"has {text!r} beside {item.answer!r}: the digits are not as many"


def letter_kind(text: str) -> str:
    """Tell what a text begins with: a digit, a capital or a small letter."""
    if text[0].isdigit():
        return "digit"
    return "capital" if text[0].isupper() else "small"


def check_set(items: Sequence[Item]) -> Iterator[str]:
    """Find what is wrong with the set: twins, repeated prompts, too few items."""
    ids = {language: [i.id for i in items if i.language == language] for language in LANGUAGES}
    for language, own in ids.items():
        yield from (f"{language} {id}: {n} times" for id, n in Counter(own).items() if n > 1)
        if len(own) < LEAST_ITEMS:
            yield f"{language}: {len(own)} items, fewer than {LEAST_ITEMS}"
        for category in CATEGORIES:
            n_items = sum(i.language == language and i.category == category for i in items)
            if n_items < LEAST_OF_A_CATEGORY:
                yield f"{language} {category}: {n_items} items, fewer than {LEAST_OF_A_CATEGORY}"
    yield from (f"{id}: has no twin" for id in sorted({*ids["de"]} ^ {*ids["en"]}))
    kinds = {(item.id, item.category, item.relation) for item in items}
    yield from (f"{id}: twins differ" for id, n in Counter(k[0] for k in kinds).items() if n > 1)
    prompts = Counter((item.language, item.prompt) for item in items)
    yield from (f"{key[1]!r}: is asked {n} times" for key, n in prompts.items() if n > 1)
