"""Rules: why a document is dropped. One small function per reason, one table of them all.

A rule sees the statistics of the text, its language and the limits, and tells whether the document
goes. To add one: a function, and a line in `RULES`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_tools.clean.language import STOP_WORDS
from data_tools.clean.limits import DUPLICATE_GRAM_LIMITS, PENEDO, RAE, TOP_GRAM_LIMITS, Limits
from data_tools.clean.markup import tag_characters
from data_tools.clean.repetition import has_duplicate_grams_over, has_top_gram_over
from data_tools.clean.statistics import TextStatistics

BULLETS = ("•", "‣", "▪", "●", "- ", "* ", "\u2013 ")
ELLIPSES = ("...", "…")
SENTENCE_ENDS = (".", "!", "?", "…", ":", ";", '."', '!"', '?"', ".“", "!“", "?“", ".”", "!”", "?”")
LOREM_IPSUM = "lorem ipsum"
LOREM_IPSUM_CHARACTERS = 5000  # a longer text says something about it

Check = Callable[[TextStatistics, str, Limits], bool]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One reason to drop a document.

    Attributes:
        reason: Its code in reports, and its name in `rules=`.
        group: "form", "gopher" or "fineweb": names them together in `rules=`.
        drops: Tells whether the document goes.
        source: Who says so.
    """

    reason: str
    group: str
    drops: Check
    source: str


def has_too_few_words(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether there are fewer words than `min_words`."""
    return statistics.n_words < limits.min_words


def has_too_many_words(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether there are more words than `max_words`."""
    return statistics.n_words > limits.max_words


def has_short_words(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether the mean word is too short."""
    return statistics.n_word_characters < limits.min_mean_word_characters * statistics.n_words


def has_long_words(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether the mean word is too long for the language."""
    longest = (
        limits.max_mean_word_characters_german
        if language == "de"
        else limits.max_mean_word_characters
    )
    return statistics.n_word_characters > longest * statistics.n_words


def has_number_signs(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether there are too many number signs for the words."""
    return statistics.text.count("#") > limits.max_symbol_share * statistics.n_words


def has_ellipses(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether there are too many ellipses for the words."""
    n_ellipses = sum(map(statistics.text.count, ELLIPSES))
    return n_ellipses > limits.max_symbol_share * statistics.n_words


def has_bullet_lines(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether too many lines begin with a bullet."""
    n_bullets = sum(line.startswith(BULLETS) for line in statistics.lines)
    return n_bullets > limits.max_bullet_line_share * len(statistics.lines)


def has_ellipsis_lines(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether too many lines end with an ellipsis."""
    if not any(ellipsis in statistics.text for ellipsis in ELLIPSES):
        return False
    n_ellipses = sum(line.endswith(ELLIPSES) for line in statistics.lines)
    return n_ellipses > limits.max_ellipsis_line_share * len(statistics.lines)


def has_few_alphabetic_words(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether too few words hold a letter."""
    needed = limits.min_alphabetic_word_share * statistics.n_words
    if sum(map(str.isalpha, [word[0] for word in statistics.words])) >= needed:
        return False  # those that begin with a letter are enough; most texts end here
    counts = statistics.counts.items()
    return sum(n for word, n in counts if any(map(str.isalpha, word))) < needed


def has_few_stop_words(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether too few stop words occur. A language without a list passes."""
    words = STOP_WORDS.get(language)
    return words is not None and len(words & statistics.counts.keys()) < limits.min_stop_words


def has_duplicate_lines(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether too many lines stood before already."""
    n_duplicates, _ = statistics.n_line_duplicates
    return n_duplicates > limits.max_duplicate_line_share * len(statistics.lines)


def has_duplicate_line_text(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether lines that stood before fill too much of the text."""
    _, n_characters = statistics.n_line_duplicates
    return n_characters > limits.max_duplicate_line_character_share * len(statistics.text)


def has_duplicate_paragraphs(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether too many paragraphs stood before already."""
    n_duplicates, _ = statistics.n_paragraph_duplicates
    return n_duplicates > limits.max_duplicate_paragraph_share * len(statistics.paragraphs)


def has_duplicate_paragraph_text(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether paragraphs that stood before fill too much of the text."""
    _, n_characters = statistics.n_paragraph_duplicates
    return n_characters > limits.max_duplicate_paragraph_character_share * len(statistics.text)


def has_top_gram(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether one run of two to four words fills too much of the text."""
    return any(
        has_top_gram_over(statistics, n, limits.gram_scale * limit) for n, limit in TOP_GRAM_LIMITS
    )


def has_duplicate_grams(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether repeated runs of five to ten words fill too much of the text."""
    scaled = [(n, limits.gram_scale * limit) for n, limit in DUPLICATE_GRAM_LIMITS]
    return has_duplicate_grams_over(statistics, scaled)


def has_unpunctuated_lines(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether too few lines end as a sentence does."""
    n_punctuated = sum(line.endswith(SENTENCE_ENDS) for line in statistics.lines)
    return n_punctuated <= limits.min_punctuated_line_share * len(statistics.lines)


def has_short_lines(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether too many lines are short."""
    n_short = sum(len(line) < limits.short_line_characters for line in statistics.lines)
    return n_short >= limits.max_short_line_share * len(statistics.lines)


def has_fineweb_duplicate_lines(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether lines that stood before fill more of the text than FineWeb allows."""
    _, n_characters = statistics.n_line_duplicates
    n_line_characters = sum(map(len, statistics.lines))
    return n_characters > limits.max_fineweb_duplicate_line_character_share * n_line_characters


def is_list(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether there are too many line ends for the words."""
    return statistics.text.count("\n") > limits.max_newlines_per_word * statistics.n_words


def has_tags(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether HTML tags fill too much of the text."""
    return tag_characters(statistics.text) > limits.max_tag_share * len(statistics.text)


def has_replacements(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether too many characters are lost to a wrong encoding."""
    n_lost = statistics.text.count("\ufffd")
    return n_lost > limits.max_replacement_share * len(statistics.text)


def is_lorem_ipsum(statistics: TextStatistics, language: str, limits: Limits) -> bool:
    """Tell whether a short text holds the typesetters' filler."""
    text = statistics.text
    return len(text) < LOREM_IPSUM_CHARACTERS and LOREM_IPSUM in text.lower()


def _rules(group: str, source: str, checks: dict[str, Check]) -> list[Rule]:
    return [
        Rule(reason=reason, group=group, drops=drops, source=source)
        for reason, drops in checks.items()
    ]


RULES: dict[str, Rule] = {
    rule.reason: rule
    for rule in (
        *_rules(
            "form",
            "ours; lorem ipsum: Raffel et al. 2019, arXiv:1910.10683, section 2.2",
            {
                "replacement_characters": has_replacements,
                "html_tags": has_tags,
                "lorem_ipsum": is_lorem_ipsum,
            },
        ),
        *_rules(
            "gopher",
            f"{RAE}, appendix A.1.1",
            {
                "few_words": has_too_few_words,
                "many_words": has_too_many_words,
                "short_words": has_short_words,
                "long_words": has_long_words,
                "number_signs": has_number_signs,
                "ellipses": has_ellipses,
                "bullet_lines": has_bullet_lines,
                "ellipsis_lines": has_ellipsis_lines,
                "few_alphabetic_words": has_few_alphabetic_words,
                "few_stop_words": has_few_stop_words,
            },
        ),
        *_rules(
            "gopher",
            f"{RAE}, table A1",
            {
                "duplicate_lines": has_duplicate_lines,
                "duplicate_line_text": has_duplicate_line_text,
                "duplicate_paragraphs": has_duplicate_paragraphs,
                "duplicate_paragraph_text": has_duplicate_paragraph_text,
                "top_gram": has_top_gram,
                "duplicate_grams": has_duplicate_grams,
            },
        ),
        *_rules(
            "fineweb",
            f"{PENEDO}, section 3.6",
            {
                "unpunctuated_lines": has_unpunctuated_lines,
                "short_lines": has_short_lines,
                "fineweb_duplicate_lines": has_fineweb_duplicate_lines,
                "line_ends": is_list,
            },
        ),
    )
}
GROUPS = {
    group: tuple(rule.reason for rule in RULES.values() if rule.group == group)
    for group in ("form", "gopher", "fineweb")
}
# FineWeb's rules tell articles from the navigation of web pages. Entries of dictionaries and
# options of manuals end with no full stop: `unpunctuated_lines` drops 42 of the 78 MB of our
# reference corpus. So a person asks for these rules by name.
DEFAULT_RULES = GROUPS["form"] + GROUPS["gopher"]


def choose_rules(words: str) -> tuple[str, ...]:
    """Choose rules by a line such as "gopher,short_lines" or "-few_words", in the table's order.

    Args:
        words: Names of rules and groups, "all" or "default". One with "-" before it is left out.
            A line that only leaves out, or is empty, starts from the default.

    Raises:
        ValueError: A word names no rule.
    """
    groups = {**GROUPS, "default": DEFAULT_RULES, "all": tuple(RULES)}
    chosen: set[str] = set()
    left_out: set[str] = set()
    named = [word for part in words.split(",") if (word := part.strip())]
    for word in named:
        name = word.removeprefix("-")
        if name not in groups and name not in RULES:
            allowed = ", ".join([*groups, *RULES])
            raise ValueError(f"rules={word}: no such rule; allowed: {allowed}")
        (left_out if word.startswith("-") else chosen).update(groups.get(name, (name,)))
    if not any(not word.startswith("-") for word in named):
        chosen.update(DEFAULT_RULES)
    return tuple(reason for reason in RULES if reason in chosen - left_out)


def find_reason(
    statistics: TextStatistics, language: str, limits: Limits, rules: Sequence[str]
) -> str | None:
    """Name the first rule that drops the text, or none."""
    for reason in rules:
        if RULES[reason].drops(statistics, language, limits):
            return reason
    return None
