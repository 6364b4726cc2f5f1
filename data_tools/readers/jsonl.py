"""Lines of JSON: one object each."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_tools.readers.rows import Row, choose_facts, choose_text
from data_tools.readers.streams import MAX_LINE_CHARACTERS
from helix.data import DataError


def read_jsonl(path: Path, characters: Iterable[str], *, field: str) -> Iterator[tuple[int, Row]]:
    """Yield each line that is not blank, with its number.

    Args:
        field: Name of the text, or the names to it through nested objects: "article.body".
    """
    for number, line in enumerate(split_lines(path, characters), start=1):
        if line.strip():
            yield number, parse_line(line, field=field, where=f"{path}, line {number}")


def split_lines(
    path: Path, characters: Iterable[str], *, max_characters: int = MAX_LINE_CHARACTERS
) -> Iterator[str]:
    """Yield the lines of a text that comes in pieces.

    Raises:
        DataError: A line is too long to be held in memory.
    """
    begun: list[str] = []  # the parts of a line whose end has not come
    n_begun = n_lines = 0
    for piece in characters:
        first, *others = piece.split("\n")
        begun.append(first)
        n_begun += len(first)
        if others:
            yield "".join(begun)
            yield from others[:-1]
            begun, n_begun = [others[-1]], len(others[-1])
            n_lines += len(others)
        if n_begun > max_characters:
            raise DataError(
                f"{path}, line {n_lines + 1}: longer than {max_characters:,} characters; write one "
                "object per line"
            )
    yield "".join(begun)


def parse_line(line: str, *, field: str, where: str) -> Row:
    """Parse one line."""
    try:
        row = json.loads(line)
    except ValueError as error:  # also of a number too long to be one
        raise DataError(f"{where}: not JSON ({error}); write one object per line") from None
    except RecursionError:
        raise DataError(f"{where}: nested too deeply to be read") from None
    if not isinstance(row, dict):
        raise DataError(f'{where}: no text; write {{"{field}": "..."}} on each line')
    return {**choose_facts(row, where=where), "text": choose_text(row, field, where=where)}
