"""Lines of JSON that a run appends to its files, read so that a torn one harms nothing."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file; a line torn by a kill, or by a disk, is left out."""
    if not path.exists():
        return
    # Not splitlines: a document's name may hold a separator of Unicode's.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Add an object, after a torn line too; it is on the disk when this returns."""
    begin = "\n" if is_torn(path) else ""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(begin + json.dumps(entry, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def is_torn(path: Path) -> bool:
    """Tell whether a file's last line has no end, and would swallow the next one."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) != b"\n"
