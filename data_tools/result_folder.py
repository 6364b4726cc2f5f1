"""The folder that a step writes: under a temporary name until it is complete.

That name is one that nobody else has, so two runs that write the same folder do not meet: each
makes a whole result, and the second to end is refused or, if it may, replaces the first.
"""

import contextlib
import glob
import json
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

from data_tools.documents import Document
from helix.data import DataError

# names files, and members of tars: those hold 100 bytes of name, and "." would end a key
SOURCE_NAME = re.compile(r"[\w-]{1,48}")
MARKS = ("manifest.json", "report.json")  # a result has one of them: nothing else is replaced
N_OPEN_FILES = 64  # a corpus may have more sources than a process may open files


@contextlib.contextmanager
def new_folder(out: str | Path, *, replace: bool) -> Iterator[Path]:
    """Give a folder to write to, which becomes `out` at the end, or is removed after an error.

    Raises:
        DataError: There is something, and `replace` was not given, or it is no result of ours or
            cannot be moved; also when another run put it there meanwhile.
    """
    out = Path(out).resolve()  # of a link the target is replaced
    refuse_loss(out, replace=replace)
    for left in sorted(out.parent.glob(f".{glob.escape(out.name)}.????????.*")):
        print(
            f"helix: {left}: another run is at it, or left it when it was killed; remove it if "
            "none is",
            file=sys.stderr,
        )
    partial = name_beside(out, "partial")
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    place_folder(partial, out, replace=replace)


def refuse_loss(out: Path, *, replace: bool) -> None:
    """Refuse to write over what is there, unless it is a result and may be replaced."""
    if not out.exists():
        return
    if out.is_mount() or Path.cwd().is_relative_to(out):
        raise DataError(
            f"{out}: cannot be replaced as a whole, for it is mounted or the command runs in it; "
            "give a folder within it"
        )
    if not replace:
        raise DataError(f"{out}: is there already; give another folder, or replace=true")
    is_empty = out.is_dir() and not any(out.iterdir())
    if not is_empty and not any((out / mark).is_file() for mark in MARKS):
        raise DataError(
            f"{out}: holds no {' or '.join(MARKS)}, so it is no result to replace; give another "
            "folder, or remove it yourself"
        )


def name_beside(out: Path, kind: str) -> Path:
    """Name something beside a folder as nobody else does; its mode will follow the umask."""
    return out.with_name(f".{out.name}.{secrets.token_hex(4)}.{kind}")


def place_folder(partial: Path, out: Path, *, replace: bool) -> None:
    """Rename a complete folder to its name, and only then delete what was there."""
    old = name_beside(out, "old")
    try:
        refuse_loss(out, replace=replace)
        if replace and out.exists():
            out.replace(old)
        partial.replace(out)
    except (DataError, OSError) as error:
        raise DataError(f"{error}; what was made lies in {partial}") from None
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
        file = self.files.pop(source, None) or self.open_source(source)
        self.files[source] = file  # the last one: the first was written to longest ago
        file.write(to_line(asdict(document)))

    def open_source(self, source: str) -> IO[str]:
        """Open the file of a source to go on with it, and close another one if need be."""
        if len(self.files) == N_OPEN_FILES:
            self.files.pop(next(iter(self.files))).close()
        return open_text(self.folder / f"{check_source(source)}.jsonl", mode="a")


def open_text(path: Path, *, mode: Literal["w", "a"] = "w") -> IO[str]:
    """Open a file to write lines to, anew or at its end."""
    return path.open(mode, encoding="utf-8", newline="\n")


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
