from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.clean.limits import DUPLICATE_GRAM_LIMITS, TOP_GRAM_LIMITS, Limits
from data_tools.clean.repetition import (
    duplicate_characters,
    has_duplicate_grams_over,
    has_top_gram_over,
    repeated_cover_bound,
    repeated_cover_characters,
    top_gram_bound,
    top_gram_characters,
)
from data_tools.clean.rules import DEFAULT_RULES, GROUPS, RULES, choose_rules, find_reason
from data_tools.clean.statistics import TextStatistics, count_duplicates

GERMAN = (
    "Der Fluss fließt langsam durch die Stadt, und im Sommer sitzen die Leute mit ihren Kindern am "
    "Ufer. Das Wasser ist klar. Von der alten Brücke, die als Wahrzeichen gilt, sieht man den Turm."
)
ENGLISH = (
    "The river flows slowly through the town, and people sit with their children on the bank. "
    "Those who have time walk to the old bridge, that landmark of which all the children sing."
)
# texts that each break one rule, and no rule before it
BROKEN = {
    "replacement_characters": ENGLISH + " caf\ufffd",
    "html_tags": "<div><p><b>" * 12 + ENGLISH,
    "lorem_ipsum": ENGLISH + " Lorem ipsum dolor sit amet.",
    "few_words": "The old bridge and the river.",
    "many_words": " ".join(f"the and word{n}" for n in range(34_000)),
    "short_words": " ".join("a b the and c d" for _ in range(10)),
    "long_words": " ".join(
        f"the and internationalisations{n} internationalisation" for n in range(20)
    ),
    "number_signs": ENGLISH + " ####",
    "ellipses": ENGLISH + " ... … ... …",
    "bullet_lines": "\n".join(f"- the item of page number{n} and more" for n in range(12)),
    "ellipsis_lines": "\n".join(
        f"the item of page{n} and all the other words of a long line number{n}{end}"
        for n, end in enumerate(["...", "", "", ""] * 3 + ["..."] * 2)
    ),
    "few_alphabetic_words": "the and " + " ".join(str(n) for n in range(30)) + " words" * 2,
    "few_stop_words": " ".join(f"name{n} street{n}" for n in range(20)),
    "duplicate_lines": "\n".join(["the home page and more"] * 4 + [ENGLISH, "the end"]),
    "duplicate_line_text": "\n".join([ENGLISH, ENGLISH, "the end", "a line", "and so on"]),
    "duplicate_paragraphs": "\n\n".join([ENGLISH * 3, "x\ny", "x\ny", "z\ny", "z\ny"]),
    "duplicate_paragraph_text": "\n\n".join(
        [*(f"the p{n}" for n in range(8)), f"{ENGLISH}\n and", f"{ENGLISH}\n and"]
    ),
    "top_gram": " ".join(f"the long bridge and word{n}" for n in range(20)),
    "duplicate_grams": ENGLISH + " and so on, " + ENGLISH[:110],
    "unpunctuated_lines": "\n".join(f"the line of page{n} and more words here" for n in range(9)),
    "short_lines": ENGLISH + "\n" + "\n".join(f"word{n} and the word{n}." for n in range(9)),
    "fineweb_duplicate_lines": "\n".join(
        [ENGLISH * 2, GERMAN, "the end and the rest of it " * 2] * 2
    ),
    "line_ends": ENGLISH + "." + "\n" * 12,
}
PASSING = {"de": GERMAN, "en": ENGLISH}
words = st.lists(st.sampled_from(["ab", "the", "on", "cat", "dog", "rain", "bridge"]), max_size=60)


def reason_of(text, language="en", limits=None, rules=None):
    return find_reason(TextStatistics(text), language, limits or Limits(), rules or DEFAULT_RULES)


@pytest.mark.parametrize("language", PASSING)
def test_prose_passes_every_rule(language):
    assert reason_of(PASSING[language], language, rules=tuple(RULES)) is None


@pytest.mark.parametrize("reason", RULES)
def test_each_rule_drops_what_it_is_named_for(reason):
    rule = RULES[reason]
    assert rule.drops(TextStatistics(BROKEN[reason]), "en", Limits()), "not dropped"
    assert not rule.drops(TextStatistics(ENGLISH), "en", Limits())
    assert rule.source


def test_every_rule_has_a_text_that_breaks_it():
    assert BROKEN.keys() == RULES.keys()


def test_german_may_have_longer_words_than_english():
    text = " ".join(f"die und Donaudampfschifffahrt{n} der" for n in range(15))
    assert reason_of(text + " Verwaltungsvorschriften" * 15, "en", rules=("long_words",))
    assert not reason_of(text + " Verwaltungsvorschriften" * 15, "de", rules=("long_words",))


def test_german_needs_german_stop_words_and_other_languages_none():
    assert reason_of(GERMAN, "en", rules=("few_stop_words",)) == "few_stop_words"
    assert reason_of(GERMAN, "de", rules=("few_stop_words",)) is None
    assert reason_of(GERMAN, "sv", rules=("few_stop_words",)) is None


def test_limits_are_options():
    assert reason_of("The old bridge and the river.", limits=Limits(min_words=6)) is None
    assert reason_of(ENGLISH, limits=Limits(min_words=50)) == "few_words"
    bullets, off = BROKEN["bullet_lines"], Limits(max_bullet_line_share=1)
    assert reason_of(bullets, limits=off, rules=("bullet_lines",)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_words": -1}, r"limits.min_words=-1: give 0 or more"),
        ({"max_symbol_share": 1.5}, r"limits.max_symbol_share=1.5: a share is in \[0, 1\]"),
        ({"min_words": 9, "max_words": 8}, r"limits.min_words=9: more than limits.max_words=8"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(Limits(), **change)


def test_rules_are_chosen_by_name_and_group():
    assert choose_rules("") == choose_rules("default") == DEFAULT_RULES
    assert choose_rules("all") == tuple(RULES)
    assert choose_rules("-gopher") == GROUPS["form"]
    assert choose_rules("short_lines, few_words") == ("few_words", "short_lines")
    assert set(choose_rules("default,fineweb,-line_ends")) == set(RULES) - {"line_ends"}
    with pytest.raises(ValueError, match="rules=-fineweeb: no such rule; allowed: form, gopher"):
        choose_rules("-fineweeb")


@given(text=st.text())
def test_any_text_is_judged(text):
    for language in ("de", "en", "xx"):
        assert reason_of(text, language, rules=tuple(RULES)) in {None, *RULES}


@given(words=words, n=st.integers(5, 10))
def test_the_cover_bounds_duplicates_and_falls_with_longer_runs(words, n):
    statistics = TextStatistics(" ".join(words))
    exact = duplicate_characters(words, n)
    assert exact <= repeated_cover_characters(statistics, n) <= repeated_cover_bound(statistics, n)
    assert repeated_cover_characters(statistics, n) <= repeated_cover_characters(statistics, 5)


def slow_top_gram_characters(words, n):
    """Gopher's definition, word by word."""
    grams = [" ".join(words[start : start + n]) for start in range(len(words) - n + 1)]
    counts = {gram: grams.count(gram) for gram in grams}
    most = max(counts.values(), default=0)
    longest = max((len(gram) for gram, count in counts.items() if count == most), default=0)
    return most * longest if most > 1 else 0


@settings(max_examples=200)
@given(words=words, n=st.integers(2, 4), limit=st.floats(0, 1))
def test_the_top_gram_is_found_as_if_counted_one_by_one(words, n, limit):
    text = " ".join(words)
    statistics = TextStatistics(text)
    exact = slow_top_gram_characters(words, n)
    assert top_gram_characters(statistics, n) == exact
    assert has_top_gram_over(statistics, n, limit) == (exact > limit * len(text))
    if len(words) >= n:
        assert top_gram_bound(statistics, n) >= exact


@settings(max_examples=200)
@given(words=words, scale=st.floats(0.1, 4))
def test_bounds_never_change_what_the_published_fractions_say(words, scale):
    text = " ".join(words)
    limits = [(n, scale * limit) for n, limit in DUPLICATE_GRAM_LIMITS]
    slow = any(duplicate_characters(words, n) > limit * len(text) for n, limit in limits)
    assert has_duplicate_grams_over(TextStatistics(text), limits) == slow


def test_a_text_of_few_long_words_is_no_repetition():
    statistics = TextStatistics("Bundesausbildungsförderungsgesetz Kraftfahrzeughaftpflicht gilt")
    assert not any(has_top_gram_over(statistics, n, limit) for n, limit in TOP_GRAM_LIMITS)


@given(parts=st.lists(st.sampled_from(["a", "bb", "ccc"])))
def test_duplicates_are_all_but_the_first(parts):
    n_duplicates, n_characters = count_duplicates(parts)
    assert n_duplicates == len(parts) - len(set(parts))
    assert n_characters == sum(map(len, parts)) - sum(map(len, set(parts)))
