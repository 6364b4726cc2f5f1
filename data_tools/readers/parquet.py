"""Parquet: a column of text, and the columns that say more of its documents."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_tools.clean.extras import import_extra
from data_tools.readers.files import Report
from data_tools.readers.rows import FACTS, Row, list_fields
from data_tools.readers.streams import CHUNK_BYTES, refuse_empty
from helix.data import DataError

MAX_BATCH_ROWS = 4096


def read_parquet(path: Path, *, field: str, report: Report) -> Iterator[tuple[int, Row]]:
    """Yield each row with its number, from 1 on; of null, the text is empty.

    Args:
        field: Name of the column of text, or the names to it through structs: "article.body".

    Raises:
        DataError: The file is damaged, or a column is missing or holds no strings.
    """
    n_bytes = path.stat().st_size
    if not n_bytes:
        refuse_empty(path)
    parquet = import_extra("pyarrow.parquet", needed_for="reading .parquet")
    with refuse_damaged(path, "its end, which lists the columns"):
        file = parquet.ParquetFile(
            path,
            buffer_size=CHUNK_BYTES,
            pre_buffer=False,  # it would hold a row group's column as a whole, as threads do
            page_checksum_verification=True,
        )
    with file:
        columns = choose_columns(path, file.schema_arrow, field)
        first = 1
        n_reported = 0
        for group in range(file.num_row_groups):
            n_rows = file.metadata.row_group(group).num_rows
            with refuse_damaged(path, f"rows {first:,} to {first + n_rows - 1:,}"):
                for rows in read_batches(file, group, columns, path=path, first=first):
                    yield from enumerate(rows, start=first)
                    first += len(rows)
                    n_read = n_bytes * (first - 1) // file.metadata.num_rows
                    report(n_read - n_reported)
                    n_reported = n_read


@contextmanager
def refuse_damaged(path: Path, part: str) -> Iterator[None]:
    """Say of which part of a file Arrow could make nothing."""
    arrow = import_extra("pyarrow", needed_for="reading .parquet")
    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # the system's, such as a disk's failure
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"{path}: cut off or damaged in {part} ({reason}); get the file again"
        ) from None


def choose_columns(path: Path, schema: Any, field: str) -> dict[str, str]:
    """Map "text" and the facts that there are to the (dotted) names of their columns.

    Raises:
        DataError: A column is missing or holds no strings.
    """
    types = dict(walk_columns(schema))
    if field not in types:
        raise DataError(f"{path}: no text in field={field}; {list_fields(types, field)}")
    columns = {name: name for name in FACTS if name in types} | {"text": field}
    for column in columns.values():
        if not holds_strings(types[column]):
            raise DataError(
                f"{path}: column {column} holds {types[column]}, not strings; cast it to string"
                + ("" if column == field else ", or rename it")
            )
    return columns


def walk_columns(fields: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted names of all columns with their types."""
    for field in fields:
        name = f"{prefix}{field.name}"
        if field.type.id == struct_id():
            yield from walk_columns(field.type, f"{name}.")
        else:
            yield name, field.type


def struct_id() -> int:
    """Give Arrow's number of the type of structs."""
    return import_extra("pyarrow.lib", needed_for="reading .parquet").Type_STRUCT


def holds_strings(kind: Any) -> bool:
    """Tell whether a column of this type holds strings, or only nulls."""
    types = import_extra("pyarrow.types", needed_for="reading .parquet")
    if types.is_dictionary(kind):
        kind = kind.value_type
    is_string = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    return any(check(kind) for check in is_string)


def read_batches(
    file: Any, group: int, columns: dict[str, str], *, path: Path, first: int
) -> Iterator[list[Row]]:
    """Yield the rows of a group, about `CHUNK_BYTES` of them at once; `first` is their number."""
    facts = file.metadata.row_group(group)
    row_bytes = facts.total_byte_size // max(facts.num_rows, 1)
    batches = file.iter_batches(
        batch_size=min(max(CHUNK_BYTES // max(row_bytes, 1), 1), MAX_BATCH_ROWS),
        row_groups=[group],
        columns=list(columns.values()),
        use_threads=False,
    )
    for batch in batches:
        values = [
            to_strings(find_column(batch, column), path=path, first=first)
            for column in columns.values()
        ]
        yield [name_values(columns, row) for row in zip(*values, strict=True)]
        first += batch.num_rows


def name_values(names: Iterable[str], values: Iterable[str | None]) -> Row:
    """Make a row of those values that are not null."""
    said = zip(names, values, strict=True)
    return {"text": "", **{name: value for name, value in said if value is not None}}


def find_column(batch: Any, column: str) -> Any:
    """Give a column of a batch, also one within structs."""
    if column in batch.schema.names:
        return batch.column(column)
    name, *names = column.split(".")
    compute = import_extra("pyarrow.compute", needed_for="reading .parquet")
    return compute.struct_field(batch.column(name), names)


def to_strings(column: Any, *, path: Path, first: int) -> list[str | None]:
    """Give the values of a column.

    Raises:
        DataError: One is not UTF-8, which Arrow does not check.
    """
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        for number, value in enumerate(column, start=first):
            try:
                value.as_py()
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, row {number}: not UTF-8 ({error.reason})") from None
        raise
