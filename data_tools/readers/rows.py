"""Rows: the text of a row of .jsonl or .parquet, and what else a row says of its document."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from helix.data import DataError

Row = dict[str, str]  # "text", and those of FACTS that the row has
FACTS = ("id", "source", "language", "licence", "domain", "pair", "split")
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
NAMED_FIELDS = 20  # of those that a row has, in an error


def choose_facts(row: Mapping[str, Any], *, where: str) -> Row:
    """Give what a row says of its document.

    Raises:
        DataError: One of them is no string.
    """
    facts = {name: row[name] for name in FACTS if row.get(name) is not None}
    for name, value in facts.items():
        if not isinstance(value, str):
            raise DataError(f"{where}: {name} must be a string, not {shorten(repr(value))}")
        refuse_half_characters(value, where=where)
    return facts


def choose_text(row: Mapping[str, Any], field: str, *, where: str) -> str:
    """Give a row's text; null is none.

    Raises:
        DataError: The row has no such field, or it is no string.
    """
    if field in row:
        text = row[field]
    else:
        text = row
        for name in field.split("."):
            if not isinstance(text, Mapping) or name not in text:
                raise DataError(
                    f"{where}: no text in field={field}; {list_fields(walk_names(row), field)}"
                )
            text = text[name]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise DataError(f"{where}: no text in field={field}, but {shorten(repr(text))}")
    refuse_half_characters(text, where=where)
    return text


def refuse_half_characters(text: str, *, where: str) -> None:
    """Refuse what JSON can say and UTF-8 cannot."""
    if HALF_CHARACTER.search(text):
        raise DataError(
            f"{where}: half of a surrogate pair (\\ud800 to \\udfff) is no text; remove it"
        )


def list_fields(names: Iterable[str], field: str) -> str:
    """Phrase what fields there are, with the nearest to one that is not there."""
    names = list(names)
    if not names:
        return "there are no fields"
    listed = ", ".join(names[:NAMED_FIELDS]) + (", ..." if len(names) > NAMED_FIELDS else "")
    near = difflib.get_close_matches(field, names, n=1, cutoff=0.5)
    return f"there are: {listed}; give {f'field={near[0]}' if near else 'one of them as field='}"


def walk_names(row: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of a row's fields."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from walk_names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def shorten(words: str) -> str:
    """Cut what would make an error too long to read."""
    return words if len(words) <= 40 else f"{words[:40]}..."
