"""Read the members of an archive in memory: nothing is unpacked, so nothing can land elsewhere."""

import contextlib
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from data_tools.corpus.paragraphs import one_line
from helix.data import DataError

MEMBER_BYTES = 256 * 2**20  # the largest text that a recipe names is 40 MB


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file of an archive, or a symbolic link with its target."""

    path: str
    data: bytes = b""
    link: str = ""


def read_members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    """Yield the wanted files, and the symbolic links, in the order of the archive.

    Raises:
        DataError: The archive is broken, or a member's path leads out of it, or a wanted member
            is larger than any text that we know.
    """
    try:
        if archive.suffix in (".whl", ".zip"):
            yield from read_zip(archive, wanted)
        elif archive.suffix == ".deb":
            yield from read_deb(archive, wanted)
        else:
            with tarfile.open(archive, "r:*") as tar:
                yield from read_tar(tar, archive, wanted)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        said = one_line(str(error))
        raise DataError(
            f"{archive}: not a whole archive ({said}); delete it and run fetch again"
        ) from None


def read_deb(archive: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    """Yield members of a Debian package; its maintainer scripts are never looked at."""
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        raise DataError("dpkg-deb is not installed; install the package dpkg") from None
    with end_process(process) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            yield from read_tar(tar, archive, wanted)
        while stream.read(2**20):  # what pads the archive
            pass
        if process.wait():  # a stream that was cut between two members looks whole
            raise tarfile.ReadError("dpkg-deb cannot read it to its end")


@contextlib.contextmanager
def end_process(process: subprocess.Popen[bytes]) -> Iterator[IO[bytes]]:
    """Give the output of a process; end the process when whoever reads has had enough."""
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.stdout.close()
        process.kill()
        process.wait()


def read_tar(
    tar: tarfile.TarFile, archive: Path, wanted: Callable[[str], bool]
) -> Iterator[Member]:
    """Yield members of a tar. A hard link repeats a file that was read: it is passed over."""
    for member in tar:
        path = safe_path(member.name, archive)
        if member.issym():
            yield Member(path=path, link=member.linkname)
        elif member.isreg() and wanted(path):
            check_length(member.size, path, archive)
            file = tar.extractfile(member)
            assert file is not None
            yield Member(path=path, data=file.read())


def read_zip(archive: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    """Yield members of a wheel."""
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            path = safe_path(info.filename, archive)
            if not info.is_dir() and wanted(path):
                check_length(info.file_size, path, archive)
                yield Member(path=path, data=file.read(info))


def safe_path(name: str, archive: Path) -> str:
    """Give a member's path as it is within the package."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise DataError(
            f"{archive}: the member {name!r} leads out of the package; do not use this package"
        )
    return str(path)


def check_length(n_bytes: int, path: str, archive: Path) -> None:
    """Refuse a member that would fill the memory."""
    if n_bytes > MEMBER_BYTES:
        raise DataError(f"{archive}: {path} has {n_bytes} bytes, more than {MEMBER_BYTES}")
