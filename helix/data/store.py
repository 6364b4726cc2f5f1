"""Stores: where a dataset's files come from. They are read from a local disk in any case."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from helix.data.files import place_within
from helix.data.index import Index
from helix.data.manifest import REPAIR, Manifest, Shard, Source


class Store(ABC):
    """The files of a dataset.

    Attributes:
        name: What the user calls the dataset: its folder or URL.
        path: The local folder that files are read from.
        repair: What to do where a file there is not as it was written.
    """

    name: str
    path: Path
    manifest: Manifest
    repair: str

    @abstractmethod
    def shard(self, shard: Shard) -> Path:
        """Give a shard as a local file; any thread may ask.

        Raises:
            FetchError: It cannot be had now.
            DataError: It is not what was written, as far as a store looks.
        """

    @abstractmethod
    def index(self, source: Source) -> Index:
        """Give a source's index; see `shard` for errors."""

    @abstractmethod
    def check_room(self, shards: Sequence[Shard], cache_gib: float | None) -> None:
        """Refuse shards that do not fit where they would be kept."""

    @abstractmethod
    def fetch_ahead(self, shards: Sequence[Shard]) -> None:
        """Begin to fetch shards, in their order, before they are asked for."""

    @abstractmethod
    def close(self) -> None:
        """End what is under way."""


class LocalStore(Store):
    """A folder."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.path = path
        self.manifest = Manifest.read(path)
        self.repair = REPAIR
        self.places: dict[str, Path] = {}

    def shard(self, shard: Shard) -> Path:
        """Say where a shard should lie."""
        if shard.file not in self.places:
            self.places[shard.file] = place_within(self.path, shard.file)
        return self.places[shard.file]

    def index(self, source: Source) -> Index:
        """Read a source's index."""
        file = place_within(self.path, source.index)
        return Index.read(file, expected_hash=source.index_hash)

    def check_room(self, shards: Sequence[Shard], cache_gib: float | None) -> None:
        """Accept: nothing is copied."""

    def fetch_ahead(self, shards: Sequence[Shard]) -> None:
        """Do nothing: all is here."""

    def close(self) -> None:
        """Do nothing: nothing is under way."""


def open_store(path: str | Path, cache: str | Path = "") -> Store:
    """Open a folder, or a URL through its cache.

    Args:
        cache: Folder of the caches of all datasets; empty stands for `default_cache`.

    Raises:
        DataError: There is no dataset, or its manifest is damaged.
    """
    if not is_url(path):
        return LocalStore(expand_home(path))
    from helix.data.cache import CachedStore  # it imports fsspec, which a folder does not need

    return CachedStore(str(path), expand_home(cache or default_cache()))


def expand_home(path: str | Path) -> Path:
    """Put the home folder in place of "~": after a name with a dot, no shell does it."""
    return Path(os.path.expanduser(path))


def is_url(path: str | Path) -> bool:
    """Tell whether a dataset lies behind a URL."""
    return isinstance(path, str) and "://" in path


def default_cache() -> Path:
    """Say where datasets are cached when nobody says: where the XDG base directories have it."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "helix" / "datasets"
