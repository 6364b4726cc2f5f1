"""Clean, stage 1: the form of documents. `helix data clean`; `python -m data_tools.clean`.

    markup -> encoding -> control characters -> boilerplate -> language -> rules -> personal data

This module imports no library that is slow to load, for each worker process loads it.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from data_tools.clean.filter import FilterSettings
from data_tools.clean.limits import Limits
from data_tools.clean.markup import HtmlMode
from data_tools.clean.pii import PiiMode
from data_tools.clean.rules import choose_rules
from data_tools.text_options import TextOptions

if TYPE_CHECKING:
    from data_tools.clean.report import Report


@dataclass(frozen=True, kw_only=True)
class CleanOptions(TextOptions):
    """Options of `clean`.

    Writes out/SOURCE.jsonl with the documents that were kept, out/report.json, and out/dropped.json
    with samples of what was dropped, for a person to look at. The same input gives the same bytes.

    Attributes:
        out: Folder to write; what an earlier `clean` wrote there is replaced. It may hold nothing
            else.
        languages: ISO 639-1 codes to keep, such as "de,en"; empty keeps all of them and trusts the
            labels of the documents.
        pii: "scrub" replaces e-mail and IP addresses, IBANs, card and telephone numbers.
        html: "auto" strips pages of HTML, "strip" whatever holds a tag, "keep" nothing.
        rules: Names of rules and groups (form, gopher, fineweb, default, all); "-name" leaves one
            out: "default,short_lines", "-few_words".
        limits: Limits of the rules: limits.min_words=50.
        n_samples: Samples of dropped documents for each rule and source.
        n_processes: 0 takes all cores where the input is large enough to gain by it.
        json: Print the report as JSON.
    """

    out: str
    languages: str = ""
    pii: PiiMode = "keep"
    html: HtmlMode = "auto"
    rules: str = "default"
    limits: Limits = field(default=Limits())
    n_samples: int = 5
    n_processes: int = 0
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        choose_rules(self.rules)
        for language in split_names(self.languages):
            if not (len(language) == 2 and language.isascii() and language.islower()):
                raise ValueError(
                    f"languages={self.languages}: {language!r} is no ISO 639-1 code; give two "
                    'letters each, such as "de,en"'
                )
        if self.n_samples < 0:
            raise ValueError(f"n_samples={self.n_samples}: give 0 or more")
        if self.n_processes < 0:
            raise ValueError(f"n_processes={self.n_processes}: give 0 (all cores) or more")

    def settings(self) -> FilterSettings:
        """Give what a text goes through."""
        return FilterSettings(
            languages=split_names(self.languages),
            rules=choose_rules(self.rules),
            limits=self.limits,
            html=self.html,
            is_scrubbed=self.pii == "scrub",
        )


def split_names(words: str) -> tuple[str, ...]:
    """Split "de, en" at its commas."""
    return tuple(word for part in words.split(",") if (word := part.strip()))


def run(options: CleanOptions) -> "Report":
    """Clean a person's own files."""
    from data_tools.clean.pipeline import clean

    return clean(options)
