"""Files of a checkpoint: names that stay in the folder, hashed safetensors, bounded JSON."""

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMATS = (1, 2)
FORMAT = FORMATS[-1]
MANIFEST, STATE, LATEST = "manifest.json", "state.json", "latest"
FILE_NAME = re.compile(r"state\.json|(?:weights|moments)-[0-9]{5}-[0-9]{5}\.safetensors")
JSON_BYTES = 64 * 2**20  # shapes of a hundred thousand parameters take a tenth of it
CHUNK_BYTES = 16 * 2**20
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read; the message says what to do."""


class Cancelled(Exception):
    """A write that nobody waits for any more."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a manifest says of a file."""

    n_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor's line in the header of a safetensors file."""

    key: str
    dtype: torch.dtype
    shape: Sequence[int]

    @property
    def n_bytes(self) -> int:
        """Count the bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


def checkpoints_dir(run_dir: str | Path) -> Path:
    """Say where a run folder keeps its checkpoints."""
    return Path(run_dir) / "checkpoints"


def step_of(path: Path) -> int:
    """Read the step from a checkpoint's name; -1 where it is none."""
    match = re.fullmatch(r"step-(\d{1,18})", path.name, re.ASCII)
    return int(match[1]) if match else -1


def saved_steps(folder: Path) -> dict[int, Path]:
    """List the checkpoints of a folder by their step, the first first, intact or not."""
    found = {step_of(path): path for path in folder.glob("step-*")}
    return {step: found[step] for step in sorted(found) if step >= 0}


def never() -> bool:
    """Say that a write goes on."""
    return False


def write_tensors(
    file: Path,
    entries: Sequence[Entry],
    bodies: Iterable[Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
    is_cancelled: Callable[[], bool] = never,
) -> Described:
    """Write a safetensors file to the disk, hashed on the way; what it held before is lost.

    Byte by byte what the library writes, but neither copied whole nor read again; and the library
    keeps Python's lock, which would halt the training that goes on meanwhile.

    Args:
        entries: In order of the key and of one dtype, which is the library's order.
        bodies: On the CPU; one after the other they hold the elements of all entries.
        is_cancelled: Asked now and then.

    Raises:
        Cancelled: It said yes; the file is torn.
    """
    digest, n_bytes = hashlib.sha256(), 0
    with file.open("wb") as stream:
        for part in _parts(_header(entries, metadata), bodies):
            if is_cancelled():
                raise Cancelled
            stream.write(part)
            digest.update(part)
            n_bytes += len(part)
        stream.flush()
        os.fsync(stream.fileno())
    return Described(n_bytes=n_bytes, sha256=digest.hexdigest())


def _header(entries: Sequence[Entry], metadata: Mapping[str, str] | None) -> bytes:
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for entry in entries:
        end = begin + entry.n_bytes
        table[entry.key] = {
            "dtype": DTYPES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _parts(header: bytes, bodies: Iterable[Tensor]) -> Iterable[bytes | memoryview]:
    yield header
    for body in bodies:
        content = body.detach().contiguous().view(-1).view(torch.uint8).numpy().data
        for begin in range(0, len(content), CHUNK_BYTES):
            yield content[begin : begin + CHUNK_BYTES]


def write_json(file: Path, content: Mapping[str, Any]) -> Described:
    """Write a JSON file to the disk."""
    file.write_text(json.dumps(content), encoding="utf-8")
    sync(file)
    return describe(file)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object from a file of ours.

    Raises:
        ValueError: It is no such file: a link, too long, not JSON, too deep.
    """
    refuse_irregular(file)
    with file.open("rb") as stream:
        text = stream.read(JSON_BYTES + 1)
    if len(text) > JSON_BYTES:
        raise ValueError(f"{file}: longer than {JSON_BYTES} bytes")
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(f"{file}: nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: not a JSON object")
    return content


def read_manifest(path: Path) -> tuple[int, dict[str, Described]]:
    """Read which files a checkpoint has, and its format.

    Raises:
        ValueError: It is no manifest of ours, or names a file that is none of ours.
    """
    manifest = read_json(path / MANIFEST)
    if manifest.get("format") not in FORMATS or not isinstance(manifest.get("files"), dict):
        raise ValueError(f"{path}: not a manifest of format {FORMAT}")
    return manifest["format"], {
        name: _described(name, about) for name, about in manifest["files"].items()
    }


def _described(name: str, about: Any) -> Described:
    if not FILE_NAME.fullmatch(name):  # nor is there a folder in any name of ours
        raise ValueError(f"{name!r}: no name of ours")
    if not isinstance(about, dict) or not isinstance(about.get("bytes"), int):
        raise ValueError(f"{name}: not described")
    return Described(n_bytes=about["bytes"], sha256=str(about.get("sha256")))


def write_manifest(path: Path, files: Mapping[str, Described]) -> None:
    """Vouch for a checkpoint's files."""
    listed = {
        name: {"bytes": about.n_bytes, "sha256": about.sha256}
        for name, about in sorted(files.items())
    }
    write_json(path / MANIFEST, {"format": FORMAT, "files": listed})


def describe(file: Path) -> Described:
    """Count and hash a file's bytes."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return Described(n_bytes=os.fstat(stream.fileno()).st_size, sha256=digest)


def is_as_described(file: Path, described: Described) -> bool:
    """Tell whether a file lies in its folder with the bytes that a manifest names."""
    refuse_irregular(file)
    return file.stat().st_size == described.n_bytes and describe(file) == described


def refuse_irregular(file: Path) -> None:
    """Refuse a link, which may lead anywhere, and a pipe, which would never end."""
    if not stat.S_ISREG(file.lstat().st_mode):
        raise ValueError(f"{file}: not a regular file")


def sync(path: Path) -> None:
    """Put a file or a folder's names on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
