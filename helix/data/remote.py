"""Fetching: files behind a URL, whole, again and again until they are what was written.

The only file that imports fsspec. Everything that may pass is tried again: a server that is busy,
a line that breaks, bytes that are not the right ones. What cannot pass is told at once.
"""

import errno
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import fsspec
from fsspec.callbacks import Callback

from helix.data.manifest import REPAIR, DataError, FetchError

N_ATTEMPTS = 6
FIRST_WAIT_S = 0.5  # doubled after each attempt, less up to a half by chance: 8 to 16 s in all
TIMEOUT_S = 30.0  # without a byte; a large shard may take as long as it takes
POLL_S = 0.1  # between two looks at whether to stop
DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
PASSING_STATUS = (408, 425, 429)  # of the 4xx, those that a later attempt may not meet
PACKAGES = {
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
    "hf": "huggingface_hub",
    "sftp": "paramiko",
    "ssh": "paramiko",
}

Proven = TypeVar("Proven")
Prove = Callable[[Path], Proven]  # reads a fetched file, and raises DataError where it is wrong


class StoppedError(FetchError):
    """Nobody wants the file any longer."""


class Stop:
    """Tells fetching threads to end: when asked to, or when the program has come to its end.

    Python waits at its end for threads that are under way. One that waits for a server would keep
    it for minutes, and one that it does not wait for is killed in native code, which may abort.
    """

    def __init__(self) -> None:
        self.event = threading.Event()

    @property
    def is_set(self) -> bool:
        """Tell whether to end."""
        return self.event.is_set() or not threading.main_thread().is_alive()

    def check(self) -> None:
        """Raise StoppedError where it is set."""
        if self.is_set:
            raise StoppedError("stopped")

    def wait(self, seconds: float) -> None:
        """Wait, or raise StoppedError."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            self.event.wait(min(left, POLL_S))
        self.check()


class Guard(Callback):
    """Ends a transfer that nobody wants any longer, or that is longer than the file."""

    def __init__(self, stop: Stop, n_bytes: int | None) -> None:
        super().__init__()
        self.stop = stop
        self.n_bytes = n_bytes

    def relative_update(self, inc: int = 1) -> None:
        """Count bytes that came."""
        super().relative_update(inc)
        self.stop.check()
        if self.n_bytes is not None and self.value > self.n_bytes:
            raise DataError(f"longer than the {self.n_bytes:,} bytes that the manifest says")


class RemoteFolder:
    """The folder behind a URL."""

    def __init__(self, url: str, stop: Stop) -> None:
        self.url = url.rstrip("/")
        self.stop = stop
        self.files = open_file_system(url)
        self.random = random.Random()  # its own: the seeds of a run are not its business

    def url_of(self, name: str) -> str:
        """Give the URL of a file."""
        is_web = self.url.startswith(("http://", "https://"))
        return f"{self.url}/{quote(name) if is_web else name}"

    def read(self, name: str) -> bytes:
        """Read a small file; see `fetch` for errors.

        Raises:
            FileNotFoundError: There is none.
        """

        def attempt() -> bytes:
            content = self.files.cat_file(self.url_of(name))
            assert isinstance(content, bytes)  # its annotation has text, too
            return content

        return self.insist(name, attempt, keeps="")

    def fetch(self, name: str, place: Path, prove: Prove[Proven], n_bytes: int | None) -> Proven:
        """Fetch a file whole and prove it; what was there is overwritten.

        Args:
            place: Where to; afterwards it may hold anything if an error was raised.
            n_bytes: Its length, where that is known.

        Returns:
            What `prove` gave.

        Raises:
            FetchError: It could not be had.
            DataError: What lies there is not what was written, or nothing lies there.
        """

        def attempt() -> Proven:
            guard = Guard(self.stop, n_bytes)
            self.files.get_file(  # its annotation means any Callback
                self.url_of(name),
                str(place),
                callback=guard,  # pyright: ignore[reportArgumentType]
            )
            return prove(place)

        try:
            return self.insist(name, attempt, keeps="; files fetched before are kept")
        except FileNotFoundError:
            raise DataError(
                f"{self.url_of(name)}: missing, though the manifest names it; copy the dataset "
                "there again"
            ) from None

    def insist(self, name: str, attempt: Callable[[], Proven], *, keeps: str) -> Proven:
        """Try until it is done, with growing pauses, as often as N_ATTEMPTS says.

        Args:
            keeps: What to say of the earlier work when it failed for good.
        """
        url = self.url_of(name)
        for number in range(1, N_ATTEMPTS + 1):
            self.stop.check()
            try:
                return attempt()
            except (FileNotFoundError, StoppedError):
                raise
            except Exception as error:  # network stacks have many names for their errors
                cause = describe(error)
                if isinstance(error, OSError) and error.errno in DISK_TROUBLE:
                    raise FetchError(
                        f"{url}: cannot be kept ({cause}); free some space, or name another "
                        "folder with data.cache"
                    ) from None
                if not may_pass(error):
                    raise FetchError(
                        f"{url}: refused ({cause}); check the URL and the credentials"
                    ) from None
                if number == N_ATTEMPTS:
                    kind = DataError if isinstance(error, DataError) else FetchError
                    raise kind(explain(url, name, cause, kind) + keeps) from None
            wait_s = FIRST_WAIT_S * 2 ** (number - 1) * self.random.uniform(0.5, 1)
            print(
                f"helix: {url}: attempt {number} of {N_ATTEMPTS} failed ({cause}); "
                f"again in {wait_s:.1f} s",
                file=sys.stderr,
                flush=True,
            )
            self.stop.wait(wait_s)
        raise AssertionError("N_ATTEMPTS is at least 1")


def explain(url: str, name: str, cause: str, kind: type[DataError]) -> str:
    """Say that all attempts failed, and what to do."""
    advice = "check the network and the server and run the same command again"
    if kind is DataError:
        advice = "what lies there is not what was written: copy the file there again"
    return f"{url}: {name} could not be fetched in {N_ATTEMPTS} attempts (last: {cause}); {advice}"


def describe(error: Exception) -> str:
    """Name an error in one line."""
    if isinstance(error, DataError):
        return str(error).removesuffix(f"; {REPAIR}")
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def may_pass(error: Exception) -> bool:
    """Tell whether another attempt may end otherwise."""
    if isinstance(error, PermissionError):
        return False
    status = getattr(error, "status", None)
    is_refusal = isinstance(status, int) and 400 <= status < 500
    return not is_refusal or status in PASSING_STATUS


def open_file_system(url: str) -> fsspec.AbstractFileSystem:
    """Open what a URL's scheme names.

    Raises:
        DataError: There is no such scheme, or its package is missing.
    """
    scheme = url.partition("://")[0]
    options: dict[str, object] = {}
    try:
        if scheme in ("http", "https"):
            import aiohttp  # pyright: ignore[reportMissingImports]  (an extra)

            # aiohttp would end a transfer after five minutes in all
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S, sock_read=TIMEOUT_S)
            headers = {"Accept-Encoding": "identity"}  # the bytes that were hashed
            options["client_kwargs"] = {"timeout": timeout, "headers": headers}
        return fsspec.core.url_to_fs(url, **options)[0]
    except ImportError as error:
        package = PACKAGES.get(scheme)
        hint = f"pip install {package}" if package else describe(error)
        raise DataError(
            f"data.path={url}: {scheme}:// needs a package that is not installed: {hint}"
        ) from None
    except ValueError as error:
        raise DataError(
            f"data.path={url}: cannot be opened ({describe(error)}); give a folder, or a URL that "
            "fsspec knows, such as s3://bucket/dataset"
        ) from None
