"""The tables that were written by hand: tab-separated, a head line, one row a line."""

from collections.abc import Iterable
from pathlib import Path

from helix.data import DataError

FOLDER = Path(__file__).parent / "tables"
SOURCE = "helix (written by hand)"
LICENCE = "Apache-2.0"


def read_table(name: str, columns: Iterable[str]) -> list[dict[str, str]]:
    """Read a table.

    Args:
        columns: Those that the caller reads; the head must name them all.

    Raises:
        DataError: A column is missing, or a row has more or fewer fields than the head.
    """
    path = FOLDER / f"{name}.tsv"
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    names = head.split("\t")
    if missing := sorted(set(columns) - set(names)):
        raise DataError(f"{path}: the head has no column {missing[0]}")
    rows = []
    for number, line in enumerate(lines, start=2):
        values = line.split("\t")
        if len(values) != len(names):
            raise DataError(
                f"{path}, line {number}: {len(values)} fields, the head has {len(names)}"
            )
        rows.append(dict(zip(names, values, strict=True)))
    return rows


def split_list(field: str) -> list[str]:
    """Split a field that holds several texts."""
    return [text for text in field.split("|") if text]
