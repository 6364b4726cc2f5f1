"""Shards: a dataset on disk, its checks, and the order of its documents.

    <dataset>/manifest.json                       what there is, with sizes and hashes
              <split>/<source>-000000.tar         WebDataset shards: .json and .tokens members
              <split>/<source>.index.npz          where each document's ids lie in the shards

A tar is not compressed, so a document is one pread at the offset in the index. `.tokens` members
are the little-endian ids of whole documents, [bos] + ids + [eos] each. The writer is
data_tools/make_shards.py.

Dims: N documents of a source.
"""

import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from helix.data.files import OpenFiles, check_hash, check_length
from helix.data.index import INDEX_DTYPES, Index, check_index, checksum
from helix.data.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    REPAIR,
    SPLITS,
    DataError,
    Manifest,
    Shard,
    Source,
    Split,
    format_json,
)
from helix.data.order import check_weights, document_order
from helix.data.progress import show_progress
from helix.data.store import LocalStore, Store, open_store
from helix.tokenizer import Tokenizer

__all__ = [
    "FORMAT_VERSION",
    "INDEX_DTYPES",
    "MANIFEST",
    "REPAIR",
    "SPLITS",
    "DataError",
    "Dataset",
    "Index",
    "Manifest",
    "Shard",
    "Source",
    "Split",
    "check_hash",
    "check_index",
    "check_length",
    "check_weights",
    "checksum",
    "document_order",
    "format_json",
]


def json_members(tar: tarfile.TarFile) -> Iterator[list[dict]]:
    """Yield what each .json member says of its documents; a link is no file, whatever its name.

    Raises:
        DataError: A member holds something other than a list.
    """
    for member in tar:
        if member.isreg() and member.name.endswith(".json"):
            file = tar.extractfile(member)
            assert file is not None  # as for every regular member
            facts = json.load(file)
            if not isinstance(facts, list):
                raise DataError(f"{member.name}: no list of documents; {REPAIR}")
            yield facts


class Dataset:
    """One split of a dataset, opened for reading.

    Attributes:
        name: What the user calls the dataset: its folder or URL.
        path: Folder of the dataset, or of its cache.
        split: The split that `read` reads.
        sources: Source name to what the split holds of it, in the order of names.
        indexes: Source name to where its documents lie.
        skipped: Source name to the shards that are left out of the order of documents.
    """

    def __init__(self, store: Store, split: Split) -> None:
        self.store = store
        self.name = store.name
        self.path = store.path
        self.split: Split = split
        self.manifest = store.manifest
        self.fingerprint = self.manifest.fingerprint
        self.sources = dict(sorted(self.manifest.splits[split].items()))
        self.dtype = np.dtype(self.manifest.id_dtype)
        self.indexes = {name: store.index(source) for name, source in self.sources.items()}
        for name, index in self.indexes.items():
            check_index(self.path, self.sources[name], index, self.dtype.itemsize)
        self.skipped: dict[str, tuple[int, ...]] = {}
        self.files = OpenFiles()

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        split: Split = "train",
        skipped: Mapping[str, tuple[int, ...]] | None = None,
        cache: str | Path = "",
    ) -> "Dataset":
        """Open a dataset after checking its manifest, the length of every file and the index.

        Behind a URL the lengths are checked when the files are fetched.

        Args:
            path: Its folder or URL.
            skipped: Shards of the split that may be bad, since nobody will read them; if given,
                the other split may be, too.
            cache: Folder for what is fetched from a URL; see `open_store`.

        Raises:
            DataError: There is no dataset, it is of another version, or a file is missing, cut
                short or changed.
        """
        return cls.of(open_store(path, cache), split=split, skipped=skipped)

    @classmethod
    def of(
        cls,
        store: Store,
        *,
        split: Split = "train",
        skipped: Mapping[str, tuple[int, ...]] | None = None,
    ) -> "Dataset":
        """Open the dataset of a store; see `open`."""
        for each in SPLITS if skipped is None else (split,):
            for name, number, _ in store.manifest.shards(each):
                is_skipped = number in (skipped or {}).get(name, ())
                if isinstance(store, LocalStore) and not is_skipped:
                    check_shard(store, name, store.manifest.splits[each][name], number)
        dataset = cls(store, split)
        dataset.skipped = dict(skipped or {})
        return dataset

    def kept(self, source: str) -> Int64[np.ndarray, " kept"] | slice:
        """Give the documents of a source whose shards are not skipped; a slice stands for all."""
        if source not in self.skipped:
            return slice(None)
        return np.flatnonzero(~np.isin(self.indexes[source].shard, self.skipped[source]))

    def read(self, source: str, document: int) -> np.ndarray:
        """Read the ids of one document, with bos and eos, and check them.

        Raises:
            DataError: The bytes on disk are not those that were written.
        """
        index = self.indexes[source]
        shard = self.sources[source].shards[index.shard[document]]
        offset = int(index.offset[document])
        n_bytes = int(index.n_ids[document]) * self.dtype.itemsize
        data = self.files.pread(self.store.shard(shard), n_bytes, offset)
        if len(data) == n_bytes and checksum(data) == index.checksum[document]:
            return np.frombuffer(data, self.dtype)
        is_short = len(data) < n_bytes
        problem = "shard cut short" if is_short else "bytes changed since the dataset was made"
        raise DataError(
            f"{self.store.shard(shard)}: document {document} of {source!r} at byte {offset}: "
            f"{problem}; {self.store.repair}"
        )

    def verify(self) -> None:
        """Read every shard of every split and check its SHA-256.

        Raises:
            DataError: A shard is not what was written.
        """
        shards = [
            shard
            for sources in self.manifest.splits.values()
            for source in sources.values()
            for shard in source.shards
        ]
        for shard in show_progress(shards, "verify shards"):
            check_hash(self.store.shard(shard), shard.sha256)

    def document_ids(self, source: str) -> list[str]:
        """Read from the shards what each document of a source was called where it came from."""
        ids: list[str] = []
        for shard in self.sources[source].shards:
            with tarfile.open(self.store.shard(shard)) as tar:
                ids += [entry["id"] for facts in json_members(tar) for entry in facts]
        return ids

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuse a tokenizer other than the one that made the ids."""
        if tokenizer.fingerprint != self.manifest.tokenizer_fingerprint:
            raise DataError(
                f"data.path={self.name}: made with the tokenizer "
                f"{self.manifest.tokenizer_fingerprint[:16]}, but this run's tokenizer is "
                f"{tokenizer.fingerprint[:16]}; give the tokenizer it was made with, or make the "
                "dataset again"
            )

    def fetch_ahead(self, sources: Iterable[str]) -> None:
        """Begin to fetch the shards of some sources from behind a URL, before they are read."""
        self.store.fetch_ahead(self.shards_of(sources))

    def shards_of(self, sources: Iterable[str]) -> list[Shard]:
        """Name the shards of some sources, without the skipped ones."""
        return [
            shard
            for name, number, shard in self.manifest.shards(self.split)
            if name in set(sources) and number not in self.skipped.get(name, ())
        ]

    def close(self) -> None:
        """End fetching and close the shards; what is on this disk may still be read."""
        self.store.close()
        self.files.close()


def check_shard(store: LocalStore, name: str, source: Source, number: int) -> None:
    """Refuse a shard of another length, and name the first document that it hurts."""
    shard = source.shards[number]
    try:
        check_length(store.shard(shard), shard.n_file_bytes)
    except DataError as error:
        hurt = name_first_hurt(store, source, number)
        where = f" (first hurt: {hurt} of {name!r})" if hurt else ""
        raise DataError(f"{error}{where}") from None


def name_first_hurt(store: LocalStore, source: Source, number: int) -> str:
    """Name the first document of a shard that its bytes on disk no longer hold whole.

    Returns:
        Empty where all documents are whole, or the index does not tell.
    """
    try:
        index = store.index(source)
        file = store.shard(source.shards[number])
    except DataError:
        return ""
    n_bytes = file.stat().st_size if file.is_file() else 0
    end = index.offset + index.n_ids * np.uint64(np.dtype(store.manifest.id_dtype).itemsize)
    hurt = np.flatnonzero((index.shard == number) & (end > n_bytes))
    return f"document {hurt[0]}" if len(hurt) else ""
