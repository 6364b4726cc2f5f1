"""Evaluation items: the passages of an evaluation file that no training document may contain.

An item is a line of .jsonl, its passages the strings in it that have `LEAST_WORDS` words. Where
none has, all its strings in a row are one passage; an item too short even then cannot be checked.

Source: Brown et al. 2020, arXiv:2005.14165, appendix C: runs of 8 to 13 words, without case and
punctuation.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_tools.overlap import Item
from data_tools.shingles import split_words
from helix.data import DataError

LEAST_WORDS = 8
# what describes an item and is no part of it
NOT_CHECKED = frozenset(
    ("id", "source", "language", "licence", "license", "domain", "pair", "split", "url")
)


def read_items(path: Path, file: int, *, ngram_words: int, fields: Sequence[str]) -> Iterator[Item]:
    """Yield the items of an evaluation file.

    Raises:
        DataError: The file is missing, not .jsonl, or a line of it is no JSON object.
    """
    if path.suffix != ".jsonl" or not path.is_file():
        raise DataError(f"against={path}: give a .jsonl file that exists, one item per line")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                row = parse_item(line, where=f"{path}, line {number}")
                strings = list(strings_of(row, fields))
                passages = choose_passages(strings, min(LEAST_WORDS, ngram_words))
                yield Item(file, str(row.get("id", f"line {number}")), passages)


def parse_item(line: bytes, *, where: str) -> dict[str, object]:
    """Parse one line of an evaluation file."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); write one object per line") from None
    if not isinstance(row, dict):
        raise DataError(f'{where}: not an object; write {{"question": "...", ...}} on each line')
    return row


def strings_of(row: dict[str, object], fields: Sequence[str]) -> Iterator[str]:
    """Yield the strings of a row: of the named fields, or of all but those that describe it."""
    for name, value in row.items():
        if name in fields or (not fields and name not in NOT_CHECKED):
            yield from strings_in(value)


def strings_in(value: object) -> Iterator[str]:
    """Yield the strings of a JSON value at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_in(inner)


def choose_passages(strings: Sequence[str], least_words: int) -> tuple[tuple[str, ...], ...]:
    """Choose what to look for: the strings that are long enough, else all of them in a row."""
    passages = [tuple(split_words(string)) for string in strings]
    whole = tuple(word for words in passages for word in words)
    candidates = [words for words in passages if len(words) >= least_words] or [whole]
    return tuple(dict.fromkeys(words for words in candidates if len(words) >= least_words))
