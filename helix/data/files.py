"""Files: the shards on a disk that are open for reading, and their checks."""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from helix.data.manifest import REPAIR, DataError

MAX_OPEN_FILES = 64


class OpenFile:
    """A descriptor that is closed when nobody holds it any longer."""

    def __init__(self, file: Path) -> None:
        self.descriptor = -1
        try:
            self.descriptor = os.open(file, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror}); {REPAIR}") from None

    def pread(self, n_bytes: int, offset: int) -> bytes:
        """Read bytes at an offset; fewer where the file ends before."""
        data = os.pread(self.descriptor, n_bytes, offset)
        if len(data) == n_bytes:
            return data
        parts = [data]
        while parts[-1]:
            n_bytes, offset = n_bytes - len(parts[-1]), offset + len(parts[-1])
            parts.append(os.pread(self.descriptor, n_bytes, offset))
        return b"".join(parts)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.descriptor >= 0:
            close(self.descriptor)  # when Python ends, the module may be gone before


class OpenFiles:
    """The shards that are open for reading, about MAX_OPEN_FILES at a time; any thread may read.

    A file that is dropped while a thread reads it stays open until that thread is done.
    """

    def __init__(self) -> None:
        self.descriptors: OrderedDict[Path, OpenFile] = OrderedDict()
        self.lock = threading.Lock()

    def pread(self, file: Path, n_bytes: int, offset: int) -> bytes:
        """Read bytes at an offset; fewer where the file ends before."""
        with self.lock:
            opened = self.descriptors.pop(file, None) or OpenFile(file)
            self.descriptors[file] = opened
            if len(self.descriptors) > MAX_OPEN_FILES:
                self.descriptors.popitem(last=False)
        return opened.pread(n_bytes, offset)

    def close(self) -> None:
        """Close all."""
        with self.lock:
            self.descriptors.clear()


def place_within(folder: Path, name: str) -> Path:
    """Say where a file of a dataset lies, and refuse a link that leads out of its folder."""
    try:
        is_within = (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that lead in a circle
        is_within = False
    if not is_within:
        raise DataError(
            f"{folder / name}: a link that leads out of the dataset's folder; put the file itself "
            "there"
        )
    return folder / name


def check_length(file: Path, n_bytes: int) -> None:
    """Refuse a shard that is missing or has another length than the manifest says."""
    if not file.is_file():
        raise DataError(f"{file}: missing, though the manifest names it; {REPAIR}")
    found = file.stat().st_size
    if found != n_bytes:
        what = "shard cut short" if found < n_bytes else "shard too long"
        raise DataError(f"{file}: {what}: {found:,} bytes, the manifest says {n_bytes:,}; {REPAIR}")


def hash_file(file: Path) -> str:
    """Give the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_hash(file: Path, sha256: str) -> None:
    """Refuse a shard whose bytes are not those that were written."""
    found = hash_file(file)
    if found != sha256:
        raise DataError(
            f"{file}: bytes changed (SHA-256 {found[:16]}, the manifest says {sha256[:16]}); "
            f"{REPAIR}"
        )
