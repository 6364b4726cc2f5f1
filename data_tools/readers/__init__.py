"""Readers of a person's own text: files to rows, streamed in bounded memory.

files.py says what the inputs of a verb stand for, streams.py turns a file into characters,
blocks.py those of .txt into documents, jsonl.py those of .jsonl into rows; parquet.py reads rows
itself, and rows.py says what a row may hold.
"""

from collections.abc import Iterator

from data_tools.readers.blocks import read_txt
from data_tools.readers.files import Report, TextFile
from data_tools.readers.jsonl import read_jsonl
from data_tools.readers.parquet import read_parquet
from data_tools.readers.rows import Row
from data_tools.readers.streams import read_characters


def read_rows(file: TextFile, *, field: str, report: Report) -> Iterator[tuple[int, Row]]:
    """Yield what a file holds, with the number that names it there.

    Args:
        field: Where a row of .jsonl or .parquet has its text.

    Raises:
        DataError: The file is empty, damaged, not UTF-8, or a row holds no text.
    """
    if file.kind == "parquet":
        return read_parquet(file.path, field=field, report=report)
    characters = read_characters(file, report)
    if file.kind == "jsonl":
        return read_jsonl(file.path, characters, field=field)
    return read_txt(file.path, characters)
