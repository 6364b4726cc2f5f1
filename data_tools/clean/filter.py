"""One text through the whole of stage 1: markup, encoding, boilerplate, language, rules.

Nothing here imports torch, for each worker process imports this.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from data_tools.clean.language import identify_language
from data_tools.clean.limits import Limits
from data_tools.clean.markup import HtmlMode, strip_markup
from data_tools.clean.pii import scrub_pii
from data_tools.clean.repair import remove_boilerplate, remove_controls, repair_encoding
from data_tools.clean.rules import DEFAULT_RULES, find_reason
from data_tools.clean.statistics import TextStatistics


@dataclass(frozen=True, kw_only=True)
class FilterSettings:
    """What a text goes through.

    Attributes:
        languages: ISO 639-1 codes to keep; empty keeps all, and trusts the labels.
        rules: Reasons, in order; the first that holds drops the text.
        limits: Limits of the rules.
        html: What becomes of HTML.
        is_scrubbed: Whether personal data are replaced.
    """

    languages: tuple[str, ...] = ()
    rules: tuple[str, ...] = DEFAULT_RULES
    limits: Limits = field(default_factory=Limits)
    html: HtmlMode = "auto"
    is_scrubbed: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a text.

    Attributes:
        text: As it was kept, or as it was when it was dropped.
        language: As it was found, or as it was labelled.
        reason: Why it was dropped; None where it was kept.
        changes: What was mended: "markup", "encoding", "controls", "boilerplate", "language",
            "pii".
    """

    text: str
    language: str
    reason: str | None
    changes: tuple[str, ...]


def filter_text(text: str, language: str, settings: FilterSettings) -> Verdict:
    """Mend a text and judge it.

    Args:
        language: The label that it came with.
    """
    mended, changes = mend_text(text, settings.html)
    plain = remove_boilerplate(mended)
    if plain != mended:
        changes.append("boilerplate")
    if not plain.strip():
        return Verdict(text, language, "empty", tuple(changes))
    if len(mended) - len(plain) > settings.limits.max_boilerplate_share * len(mended):
        return Verdict(text, language, "boilerplate", tuple(changes))
    statistics = TextStatistics(plain)
    found = find_language(statistics, language, settings)
    if settings.languages and found not in settings.languages:
        return Verdict(plain, found, "language", tuple(changes))
    if found != language:
        changes.append("language")
    reason = find_reason(statistics, found, settings.limits, settings.rules)
    if reason is None and settings.is_scrubbed:
        scrubbed = scrub_pii(plain)
        if scrubbed != plain:
            changes.append("pii")
        plain = scrubbed
    return Verdict(plain, found, reason, tuple(changes))


def mend_text(text: str, html: HtmlMode) -> tuple[str, list[str]]:
    """Take markup, mojibake and control characters out; tell which there were."""
    plain = strip_markup(text, html)
    mended = repair_encoding(plain)
    clean = remove_controls(mended)
    steps = {"markup": (text, plain), "encoding": (plain, mended), "controls": (mended, clean)}
    return clean, [change for change, (before, after) in steps.items() if before != after]


def find_language(statistics: TextStatistics, label: str, settings: FilterSettings) -> str:
    """Identify the language where it decides, or where the label is none of ISO 639-1."""
    if settings.languages or len(label) != 2:
        return identify_language(statistics, label)
    return label


def filter_batch(texts: Sequence[tuple[str, str]], settings: FilterSettings) -> list[Verdict]:
    """Filter texts, each with its language."""
    return [filter_text(text, language, settings) for text, language in texts]
