"""The folder that a step writes: under a temporary name until it is complete."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO

from data_tools.documents import Document
from helix.data import DataError

# names files, and members of tars: those hold 100 bytes of name, and "." would end a key
SOURCE_NAME = re.compile(r"[\w-]{1,48}")


def new_folder(out: str | Path, *, replace: bool) -> Path:
    """Make the folder `<out>.partial` afresh.

    Raises:
        DataError: There is a result, and `replace` was not given.
    """
    out = Path(out)
    if out.exists() and not replace:
        raise DataError(f"{out}: is there already; give another folder, or replace=true")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def place_folder(partial: Path, out: str | Path) -> None:
    """Rename a complete folder to its name, and only then delete what was there."""
    out = Path(out)
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    partial.replace(out)
    shutil.rmtree(old, ignore_errors=True)


class SourceFiles:
    """A context that writes documents to <source>.jsonl each, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, IO[str]] = {}

    def __enter__(self) -> "SourceFiles":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self.files.values():
            file.close()

    def write(self, document: Document) -> None:
        """Write a document to the file of its source."""
        source = document.source
        if source not in self.files:
            self.files[source] = open_text(self.folder / f"{check_source(source)}.jsonl")
        self.files[source].write(to_line(asdict(document)))


def open_text(path: Path) -> IO[str]:
    """Open a file to write lines to."""
    return path.open("w", encoding="utf-8", newline="\n")


def to_line(row: dict[str, object]) -> str:
    """Write a row as one line of JSON."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def check_source(source: str) -> str:
    """Give a source that can name a file.

    Raises:
        DataError: It cannot.
    """
    if not SOURCE_NAME.fullmatch(source):
        raise DataError(
            f"source {source!r}: cannot name a file; give letters, digits, - and _, 48 at most"
        )
    return source
