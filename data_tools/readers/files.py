"""Files: what the inputs of a verb stand for."""

import glob
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from helix.data import DataError

Report = Callable[[int], None]  # told how many bytes were read since the last time
Kind = Literal["txt", "jsonl", "parquet"]
Compression = Literal["", "gz", "zst"]
SUFFIX = re.compile(
    r"^(?P<stem>.+)\.(?:(?P<kind>txt|jsonl)(?:\.(?P<compression>gz|zst))?|parquet)$"
)
READABLE = ".txt or .jsonl file"
ALSO = "these may be compressed, .gz or .zst, and .parquet is read too"


@dataclass(frozen=True)
class TextFile:
    """A file of text.

    Attributes:
        stem: Its name without the suffixes.
        kind: How the text lies in it.
        compression: What the whole file is compressed with.
    """

    path: Path
    stem: str
    kind: Kind
    compression: Compression = ""

    @property
    def name(self) -> str:
        """Name the file as it would be called uncompressed, so that ids do not tell of that."""
        return f"{self.stem}.{self.kind}"

    @property
    def is_compressed(self) -> bool:
        """Tell whether the text is larger than the file."""
        return self.kind == "parquet" or bool(self.compression)

    @property
    def n_bytes(self) -> int:
        """Count the bytes on disk."""
        return self.path.stat().st_size


def find_files(inputs: Sequence[str | Path]) -> list[TextFile]:
    """List the files that the inputs stand for, in the order of the inputs.

    A folder stands for its text files, sorted, but not for those of its subfolders, where a corpus
    may keep its licences. A glob ("texts/**/*.jsonl.zst") stands for the text files that it
    matches, sorted. Hidden files stand for themselves only.

    Raises:
        DataError: An input is missing, stands for no text file, a file is given twice, or is a
            link to nothing.
    """
    files: dict[Path, TextFile] = {}
    for given in inputs:
        for file in find_input(given):
            place = file.path.resolve()
            if place in files:
                raise DataError(f"{file.path}: the inputs give this file twice; name it once")
            files[place] = file
    if not files:
        raise DataError(f"no text given: name a {READABLE}, or a folder of them; {ALSO}")
    return list(files.values())


def find_input(given: str | Path) -> list[TextFile]:
    """List the text files that one input stands for."""
    path = Path(given)
    if path.is_dir():
        return find_in_folder(path)
    if path.is_file():
        return [open_name(path)]
    if glob.has_magic(str(given)):
        matches = sorted(map(Path, glob.glob(str(given), recursive=True)), key=lambda m: m.parts)
        found = keep_text(matches)
        if not found:
            raise DataError(f"{given}: the pattern matches no {READABLE}; {ALSO}")
        return found
    raise DataError(f"{path}: no such file")


def find_in_folder(folder: Path) -> list[TextFile]:
    """List the text files in a folder."""
    found = keep_text(path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    if not found:
        raise DataError(
            f"{folder}: the folder holds no {READABLE}; {ALSO}; for those of its subfolders give "
            f"'{folder}/**'"
        )
    return found


def keep_text(paths: Iterable[Path]) -> list[TextFile]:
    """Keep the files whose suffix is that of text.

    Raises:
        DataError: One is a link to nothing.
    """
    named = [file for path in paths if (file := parse_name(path))]
    for file in named:
        if file.path.is_symlink() and not file.path.exists():
            raise DataError(f"{file.path}: a link to nothing; mend it, or remove it")
    return [file for file in named if file.path.is_file()]


def open_name(path: Path) -> TextFile:
    """Give the file that a person named.

    Raises:
        DataError: Its suffix is not that of text.
    """
    if file := parse_name(path):
        return file
    suffix = "".join(path.suffixes[-2:]) or "one without a suffix"
    raise DataError(f"{path}: give a {READABLE}, not {suffix}; {ALSO}")


def parse_name(path: Path) -> TextFile | None:
    """Tell by its name how a file is to be read, or that it is no text."""
    if not (match := SUFFIX.match(path.name)):
        return None
    return TextFile(
        path,
        match["stem"],
        cast(Kind, match["kind"] or "parquet"),
        cast(Compression, match["compression"] or ""),
    )


def refuse_inputs_within(out: str | Path, files: Iterable[TextFile]) -> None:
    """Refuse to read what a step will replace.

    Raises:
        DataError: A file lies in the folder that will be written.
    """
    whole = Path(out).resolve()
    for file in files:
        if file.path.resolve().is_relative_to(whole):
            raise DataError(
                f"{file.path}: lies in out={out}, which is replaced; give another folder"
            )
