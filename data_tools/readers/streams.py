"""Streams: a file as characters, decompressed and decoded piece by piece."""

import codecs
import gzip
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

from data_tools.clean.extras import import_extra
from data_tools.readers.files import Report, TextFile
from helix.data import DataError

CHUNK_BYTES = 2**18  # read at once: 106 MB/s of .jsonl on this, 87 on 2**24, beyond the caches
MAX_LINE_CHARACTERS = 2**26  # of one line of .jsonl, which must be in memory as a whole


def read_characters(file: TextFile, report: Report) -> Iterator[str]:
    """Yield a file's text in pieces, cut anywhere.

    Raises:
        DataError: The file holds nothing, is damaged, or is not UTF-8.
    """
    return decode(read_chunks(file, report), file)


def read_chunks(file: TextFile, report: Report) -> Iterator[bytes]:
    """Yield a file's bytes, decompressed."""
    if not file.n_bytes:  # a decompressor would call it cut off
        refuse_empty(file.path)
    n_reported = 0
    with file.path.open("rb") as raw, open_decompressed(raw, file) as stream:
        while chunk := read_chunk(stream, raw, file):
            yield chunk
            n_read = raw.tell()
            report(n_read - n_reported)
            n_reported = n_read


@contextmanager
def open_decompressed(raw: IO[bytes], file: TextFile) -> Iterator[IO[bytes]]:
    """Open what decompresses a file."""
    if not file.compression:
        yield raw
    elif file.compression == "gz":
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream  # pyright: ignore[reportReturnType]
    else:
        # its reader refuses a file that was cut; that of the package zstandard just ends there
        with zstd_library().ZstdFile(raw) as stream:
            yield stream


def zstd_library() -> Any:
    """Import Python's own zstd module, or its backport for Python before 3.14."""
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return import_extra(name, needed_for="reading .zst")


def read_chunk(stream: IO[bytes], raw: IO[bytes], file: TextFile) -> bytes:
    """Read the next bytes.

    Raises:
        DataError: The file was cut or changed after it was compressed.
    """
    try:
        return stream.read(CHUNK_BYTES)
    except EOFError:
        raise DataError(
            f"{file.path}: the file is cut off: its {file.n_bytes:,} bytes end in the middle of "
            "the compressed text; get it again"
        ) from None
    except compression_errors(file) as error:
        raise DataError(
            f"{file.path}: damaged near byte {raw.tell():,} of {file.n_bytes:,} ({error}); get "
            f"the file again, or uncompress it if it is not .{file.compression} at all"
        ) from None


def compression_errors(file: TextFile) -> tuple[type[Exception], ...]:
    """Name what a decompressor raises on bytes that nothing was compressed to."""
    if file.compression == "zst":
        return (zstd_library().ZstdError,)
    return (zlib.error, gzip.BadGzipFile)


def decode(chunks: Iterable[bytes], file: TextFile) -> Iterator[str]:
    """Decode UTF-8, without a byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    n_before = 0  # bytes that are decoded
    head = b""
    is_empty = True
    for chunk in chunks:
        head = head or chunk[:2]
        is_empty = is_empty and not chunk.strip()
        n_held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk)
        except UnicodeDecodeError as error:
            raise not_utf8(file, n_before, error, head) from None
        yield text if n_before else text.removeprefix("\ufeff")
        n_before += n_held + len(chunk) - len(decoder.getstate()[0])
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise not_utf8(file, n_before, error, head) from None
    if is_empty:
        refuse_empty(file.path)


def not_utf8(file: TextFile, n_before: int, error: UnicodeDecodeError, head: bytes) -> DataError:
    """Say at which byte of the text a file is not UTF-8, and how to convert it."""
    encoding = "UTF-16" if head in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
    unpack = {"": "", "gz": f"gzip -dc {file.path.name} | ", "zst": f"zstd -dc {file.path.name} | "}
    source = "" if file.compression else f" {file.name}"
    return DataError(
        f"{file.path}: byte {n_before + error.start} (0x{error.object[error.start]:02x}) is not "
        f"UTF-8; convert the file, for example: {unpack[file.compression]}"
        f"iconv -f {encoding} -t UTF-8{source} > utf8-{file.name}"
    )


def refuse_empty(path: Path) -> NoReturn:
    """Refuse a file without anything in it."""
    raise DataError(f"{path}: the file is empty; give a file with text, or leave it out")
