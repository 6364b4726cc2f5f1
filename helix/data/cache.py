"""The cache: a dataset behind a URL, copied to a local disk file by file as it is asked for.

A shard is fetched whole to a temporary name, held to the manifest's SHA-256 and renamed, so a file
that has its name is proven, however the process that fetched it ended. The processes of a node
share the folder: one that fetches a file holds the file's lock, which the system opens when it
dies. Documents are drawn from the whole dataset in random order, so nothing is ever thrown out.
"""

import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from helix.data.files import check_hash, check_length, place_within
from helix.data.index import Index
from helix.data.manifest import MANIFEST, DataError, FetchError, Manifest, Shard, Source
from helix.data.remote import POLL_S, Prove, Proven, RemoteFolder, Stop, StoppedError
from helix.data.store import Store

GIB = 2**30


class CachedStore(Store):
    """A dataset behind a URL.

    Args:
        root: Where the caches of all datasets lie; each has a folder named by its fingerprint.
    """

    def __init__(self, url: str, root: Path) -> None:
        self.name = url
        self.stop = Stop()
        self.remote = RemoteFolder(url, self.stop)
        try:
            content = self.remote.read(MANIFEST)
        except FileNotFoundError:
            raise DataError(
                f"data.path={url}: no dataset there ({MANIFEST} is missing); check the URL, or "
                "copy there what helix data shard wrote"
            ) from None
        self.manifest = Manifest.parse(content, self.remote.url_of(MANIFEST))
        self.root = root
        self.path = root / self.manifest.fingerprint[:32]
        self.repair = f"remove {self.path}, and it is fetched again"
        self.whole: dict[str, Path] = {}
        self.n_demands = 0
        self.demands = threading.Condition()
        self.thread: threading.Thread | None = None

    def shard(self, shard: Shard) -> Path:
        """Give a shard, fetched now if it was not before; the background thread waits for that."""
        file = self.whole.get(shard.file)
        if file is None:
            with self.demands:
                self.n_demands += 1
            try:
                file = self.obtain(shard)
            finally:
                with self.demands:
                    self.n_demands -= 1
                    self.demands.notify_all()
        return file

    def obtain(self, shard: Shard) -> Path:
        """Give a shard, fetched by this process or by another one."""
        file = place_within(self.path, shard.file)
        if not has_length(file, shard):
            with self.locked(shard.file):
                self.fetch_shard(shard)
        self.whole[shard.file] = file
        return file

    def fetch_shard(self, shard: Shard) -> None:
        """Fetch a shard whose lock is held, unless another process just did."""
        if not has_length(place_within(self.path, shard.file), shard):

            def prove(file: Path) -> None:
                check_length(file, shard.n_file_bytes)
                check_hash(file, shard.sha256)

            self.fetch(shard.file, prove, shard.n_file_bytes)

    def index(self, source: Source) -> Index:
        """Give a source's index; a damaged one is fetched again."""

        def prove(file: Path) -> Index:
            return Index.read(file, expected_hash=source.index_hash)

        file = place_within(self.path, source.index)
        with self.locked(source.index):
            try:
                return prove(file)
            except DataError:  # missing, most often
                return self.fetch(source.index, prove, None)

    def fetch(self, name: str, prove: Prove[Proven], n_bytes: int | None) -> Proven:
        """Fetch a file whose lock is held, and give it its name once it is proven."""
        file, partial = place_within(self.path, name), self.own_file(name, "partial")
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            proven = self.remote.fetch(name, partial, prove, n_bytes)
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
        return proven

    def locked(self, name: str) -> "Lock":
        """Hold the lock of a file while it is fetched."""
        return Lock(self.own_file(name, "lock"), self.stop)

    def own_file(self, name: str, kind: str) -> Path:
        """Name a file beside the dataset's; none of those begins with a dot."""
        folder = self.path / f".{kind}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FetchError(
                f"data.cache={self.root}: cannot be written ({error.strerror}); name a local "
                "folder of your own"
            ) from None
        return folder / name.replace("/", "%")

    def check_room(self, shards: Sequence[Shard], cache_gib: float | None) -> None:
        """Refuse shards that are more than the cache may hold, or than the disk can.

        Raises:
            DataError: They do not fit; the message has both figures.
        """
        n_bytes = sum(shard.n_file_bytes for shard in shards)
        why = "documents are drawn from all of it in random order, so all of it must fit"
        if cache_gib is not None and n_bytes > cache_gib * GIB:
            raise DataError(
                f"data.cache_gib={cache_gib}: {self.name} has {n_bytes / GIB:.3g} GiB to train on, "
                f"and {why}; raise data.cache_gib, or set the weights of sources to 0"
            )
        self.own_file(MANIFEST, "lock")  # makes the folder
        missing = sum(shard.n_file_bytes for shard in shards if not self.has(shard))
        partial = sum(map(length_of, self.path.glob(".partial/*")))
        free = shutil.disk_usage(self.path).free
        if missing - partial > free:
            raise DataError(
                f"data.cache={self.root}: {free / GIB:.3g} GiB are free there, {self.name} needs "
                f"{missing / GIB:.3g} GiB more, and {why}; free some space, or name another folder"
            )

    def has(self, shard: Shard) -> bool:
        """Tell whether a shard is here."""
        return shard.file in self.whole or has_length(self.path / shard.file, shard)

    def fetch_ahead(self, shards: Sequence[Shard]) -> None:
        """Begin to fetch shards in the background, in their order."""
        if self.thread is None and not all(map(self.has, shards)):
            arguments = (list(shards),)
            self.thread = threading.Thread(
                target=self.fetch_all, args=arguments, name="helix-fetch"
            )
            self.thread.start()

    def fetch_all(self, shards: list[Shard]) -> None:
        """Fetch shards that nobody fetches, then wait for those that others fetch."""
        try:
            for is_second in (False, True):
                for shard in shards:
                    self.give_way()
                    if is_second:
                        self.obtain(shard)
                    elif not self.has(shard):
                        self.fetch_unless_locked(shard)
        except StoppedError:
            return
        except DataError as error:  # who needs the shard will try again, and be told
            print(f"helix: no longer fetching ahead: {error}", file=sys.stderr, flush=True)

    def fetch_unless_locked(self, shard: Shard) -> None:
        """Fetch a shard unless somebody is at it: the next one is of more use then."""
        lock = self.locked(shard.file)
        if lock.try_once():
            try:
                self.fetch_shard(shard)
            finally:
                lock.release()

    def give_way(self) -> None:
        """Wait while somebody waits for a shard."""
        with self.demands:
            while self.n_demands and not self.stop.is_set:
                self.demands.wait(POLL_S)
        self.stop.check()

    def close(self) -> None:
        """End what is under way; a later read finds only what is here."""
        self.stop.event.set()
        if self.thread is not None:
            self.thread.join()


class Lock:
    """A lock on a file between threads and processes; waiting for it ends when all ends."""

    def __init__(self, file: Path, stop: Stop) -> None:
        self.lock = FileLock(file, thread_local=False)
        self.stop = stop

    def try_once(self) -> bool:
        """Take the lock if nobody holds it."""
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def __enter__(self) -> None:
        while not self.try_once():
            self.stop.wait(POLL_S)

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others take it."""
        self.lock.release()


def has_length(file: Path, shard: Shard) -> bool:
    """Tell whether a file that was proven before is there in its length."""
    return length_of(file) == shard.n_file_bytes


def length_of(file: Path) -> int:
    """Count a file's bytes; -1 where there is none."""
    try:
        return file.stat().st_size
    except OSError:
        return -1
