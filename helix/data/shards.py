"""Shards: a dataset on disk, its checks, and the order of its documents.

    <dataset>/manifest.json                       what there is, with sizes and hashes
              <split>/<source>-000000.tar         WebDataset shards: .json and .tokens members
              <split>/<source>.index.npz          where each document's ids lie in the shards

A tar is not compressed, so a document is one pread at the offset in the index. `.tokens` members
are the little-endian ids of whole documents, [bos] + ids + [eos] each. The writer is
data_tools/make_shards.py.

Dims: N documents of a source.
"""

import difflib
import hashlib
import json
import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt32, UInt64

from helix.data.progress import show_progress
from helix.tokenizer import Tokenizer

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MAX_OPEN_FILES = 64
INDEX_DTYPES = {
    "shard": "<u4",
    "offset": "<u8",
    "n_ids": "<u8",
    "n_bytes": "<u8",
    "checksum": "<u8",
}

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


class DataError(ValueError):
    """Data that cannot be used as they are; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar, as the manifest has it."""

    file: str
    n_file_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a split holds of one source, as the manifest has it.

    Attributes:
        n_tokens: Ids, with the bos and eos of each document.
        n_bytes: UTF-8 bytes of the text.
        index: File of the index, in the folder of the dataset.
        index_hash: `hash_index` of its content.
    """

    language: str
    licences: tuple[str, ...]
    n_documents: int
    n_tokens: int
    n_bytes: int
    index: str
    index_hash: str
    shards: tuple[Shard, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a dataset is.

    Attributes:
        id_dtype: numpy dtype of the ids in the shards, "<u2" or "<u4".
        splits: Split, then source name, to what it holds.
        creation: The parameters it was made with.
    """

    tokenizer_fingerprint: str
    n_vocab: int
    id_dtype: str
    splits: dict[str, dict[str, Source]]
    creation: dict[str, int | float | str]
    format_version: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """Hash everything that the manifest says, and so every byte of the dataset."""
        return hashlib.sha256(format_json(asdict(self)).encode()).hexdigest()

    def to_json(self) -> str:
        """Write the manifest and its own hash; equal manifests are equal texts."""
        return format_json(asdict(self) | {"fingerprint": self.fingerprint})

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read manifest.json from the folder of a dataset."""
        file = path / MANIFEST
        if not file.is_file():
            raise DataError(
                f"data.path={path}: no dataset there ({MANIFEST} is missing: the path is wrong, or "
                "the writer was stopped); make it with data_tools.make_shards"
            )
        try:
            fields = json.loads(file.read_bytes())
            version = fields["format_version"]
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{file}: damaged ({error}); make the dataset again") from None
        if version != FORMAT_VERSION:
            raise DataError(
                f"{file}: format version {version}, but this helix reads version {FORMAT_VERSION}; "
                "make the dataset again with data_tools.make_shards"
            )
        told = fields.pop("fingerprint", None)  # not in datasets of before November 2026
        try:
            manifest = cls(**fields | {"splits": read_splits(fields["splits"])})
            found = manifest.fingerprint
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file}: damaged ({error}); make the dataset again") from None
        if told not in (None, found):
            raise DataError(
                f"{file}: changed since it was written (its content hashes to {found[:16]}, it "
                f"says {str(told)[:16]}); {REPAIR}"
            )
        return manifest


def format_json(fields: dict) -> str:
    """Write JSON for people to read; equal fields are equal texts."""
    return json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read_splits(splits: Mapping[str, Mapping[str, dict]]) -> dict[str, dict[str, Source]]:
    """Rebuild the sources of each split from JSON."""
    return {
        split: {name: read_source(fields) for name, fields in splits[split].items()}
        for split in SPLITS
    }


def read_source(fields: dict) -> Source:
    """Rebuild one source from JSON."""
    shards = tuple(Shard(**shard) for shard in fields["shards"])
    return Source(**fields | {"shards": shards, "licences": tuple(fields["licences"])})


@dataclass(frozen=True, kw_only=True)
class Index:
    """Where each document of a source lies; all arrays run over documents.

    Attributes:
        shard: Number of the document's shard.
        offset: Byte of the tar at which its ids start.
        n_ids: Its ids, with bos and eos.
        n_bytes: UTF-8 bytes of its text.
        checksum: `checksum` of its id bytes.
    """

    shard: UInt32[np.ndarray, " N"]
    offset: UInt64[np.ndarray, " N"]
    n_ids: UInt64[np.ndarray, " N"]
    n_bytes: UInt64[np.ndarray, " N"]
    checksum: UInt64[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.shard)

    def arrays(self) -> dict[str, np.ndarray]:
        """Name the arrays, in their dtypes on disk."""
        return {name: getattr(self, name).astype(dtype) for name, dtype in INDEX_DTYPES.items()}

    def hash(self) -> str:
        """Hash the content, whatever the file around it looks like."""
        digest = hashlib.sha256()
        for name, array in self.arrays().items():
            digest.update(f"{name} {len(array)}\n".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    @classmethod
    def read(cls, file: Path, *, expected_hash: str) -> "Index":
        """Read an index and check its content."""
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                index = cls(**{name: arrays[name] for name in INDEX_DTYPES})
            found = index.hash()
        except Exception as error:  # zip, zlib, numpy and key errors: damage has many names
            raise DataError(f"{file}: damaged ({error}); {REPAIR}") from None
        if found != expected_hash:
            raise DataError(
                f"{file}: bytes changed (content hash {found[:16]}, the manifest says "
                f"{expected_hash[:16]}); {REPAIR}"
            )
        return index


REPAIR = "copy the file again from where the dataset was made, or make the dataset again"


class Dataset:
    """One split of a dataset, opened for reading.

    Attributes:
        path: Folder of the dataset.
        split: The split that `read` reads.
        sources: Source name to what the split holds of it, in the order of names.
        indexes: Source name to where its documents lie.
        skipped: Source name to the shards that are left out of the order of documents.
    """

    def __init__(self, path: Path, split: Split, manifest: Manifest) -> None:
        self.path = path
        self.split: Split = split
        self.manifest = manifest
        self.fingerprint = manifest.fingerprint
        self.sources = dict(sorted(manifest.splits[split].items()))
        self.indexes = {
            name: Index.read(path / source.index, expected_hash=source.index_hash)
            for name, source in self.sources.items()
        }
        for name, index in self.indexes.items():
            check_index(path, self.sources[name], index, np.dtype(manifest.id_dtype).itemsize)
        self.skipped: dict[str, tuple[int, ...]] = {}
        self.files = OpenFiles()

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        split: Split = "train",
        skipped: Mapping[str, tuple[int, ...]] | None = None,
    ) -> "Dataset":
        """Open a dataset after checking its manifest, the length of every file and the index.

        Args:
            skipped: Shards of the split that may be bad, since nobody will read them; if given,
                the other split may be, too.

        Raises:
            DataError: There is no dataset, it is of another version, or a file is missing, cut
                short or changed.
        """
        path = Path(path)
        manifest = Manifest.read(path)
        for each in SPLITS if skipped is None else (split,):
            for name, source in manifest.splits[each].items():
                for number in range(len(source.shards)):
                    if number not in (skipped or {}).get(name, ()):
                        check_shard(path, manifest, name, source, number)
        dataset = cls(path, split, manifest)
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
        dtype = np.dtype(self.manifest.id_dtype)
        n_bytes = int(index.n_ids[document]) * dtype.itemsize
        data = self.files.pread(self.path / shard.file, n_bytes, offset)
        where = f"{self.path / shard.file}: document {document} of {source!r} at byte {offset}"
        if len(data) < n_bytes:
            raise DataError(f"{where}: shard cut short; {REPAIR}")
        if checksum(data) != index.checksum[document]:
            raise DataError(f"{where}: bytes changed since the dataset was made; {REPAIR}")
        return np.frombuffer(data, dtype)

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
            check_hash(self.path / shard.file, shard.sha256)

    def document_ids(self, source: str) -> list[str]:
        """Read from the shards what each document of a source was called where it came from."""
        ids: list[str] = []
        for shard in self.sources[source].shards:
            with tarfile.open(self.path / shard.file) as tar:
                for member in tar:
                    file = tar.extractfile(member) if member.name.endswith(".json") else None
                    ids += [entry["id"] for entry in json.load(file)] if file else []
        return ids

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuse a tokenizer other than the one that made the ids."""
        if tokenizer.fingerprint != self.manifest.tokenizer_fingerprint:
            raise DataError(
                f"data.path={self.path}: made with the tokenizer "
                f"{self.manifest.tokenizer_fingerprint[:16]}, but this run's tokenizer is "
                f"{tokenizer.fingerprint[:16]}; give the tokenizer it was made with, or make the "
                "dataset again"
            )

    def close(self) -> None:
        """Close the shards; a later read opens them again."""
        self.files.close()


class OpenFiles:
    """The shards that are open for reading, no more than MAX_OPEN_FILES at a time."""

    def __init__(self) -> None:
        self.descriptors: OrderedDict[Path, int] = OrderedDict()

    def pread(self, file: Path, n_bytes: int, offset: int) -> bytes:
        """Read bytes at an offset; fewer where the file ends before."""
        descriptor = self.descriptors.pop(file, None)
        if descriptor is None:
            descriptor = open_shard(file)
        self.descriptors[file] = descriptor
        if len(self.descriptors) > MAX_OPEN_FILES:
            os.close(self.descriptors.popitem(last=False)[1])
        parts = []
        while n_bytes > 0 and (part := os.pread(descriptor, n_bytes, offset)):
            parts.append(part)
            n_bytes -= len(part)
            offset += len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Close all."""
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])

    def __del__(self) -> None:
        self.close()


def open_shard(file: Path) -> int:
    """Open a shard for reading."""
    try:
        return os.open(file, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); {REPAIR}") from None


def check_length(file: Path, n_bytes: int) -> None:
    """Refuse a shard that is missing or has another length than the manifest says."""
    if not file.is_file():
        raise DataError(f"{file}: missing, though the manifest names it; {REPAIR}")
    found = file.stat().st_size
    if found != n_bytes:
        what = "shard cut short" if found < n_bytes else "shard too long"
        raise DataError(f"{file}: {what}: {found:,} bytes, the manifest says {n_bytes:,}; {REPAIR}")


def check_hash(file: Path, sha256: str) -> None:
    """Refuse a shard whose bytes are not those that were written."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise DataError(
            f"{file}: bytes changed (SHA-256 {found[:16]}, the manifest says {sha256[:16]}); "
            f"{REPAIR}"
        )


def check_shard(path: Path, manifest: Manifest, name: str, source: Source, number: int) -> None:
    """Refuse a shard of another length, and name the first document that it hurts."""
    shard = source.shards[number]
    try:
        check_length(path / shard.file, shard.n_file_bytes)
    except DataError as error:
        hurt = name_first_hurt(path, manifest, source, number)
        where = f" (first hurt: {hurt} of {name!r})" if hurt else ""
        raise DataError(f"{error}{where}") from None


def name_first_hurt(path: Path, manifest: Manifest, source: Source, number: int) -> str:
    """Name the first document of a shard that its bytes on disk no longer hold whole.

    Returns:
        Empty where all documents are whole, or the index does not tell.
    """
    file = path / source.shards[number].file
    n_bytes = file.stat().st_size if file.is_file() else 0
    try:
        index = Index.read(path / source.index, expected_hash=source.index_hash)
    except DataError:
        return ""
    end = index.offset + index.n_ids * np.uint64(np.dtype(manifest.id_dtype).itemsize)
    hurt = np.flatnonzero((index.shard == number) & (end > n_bytes))
    return f"document {hurt[0]}" if len(hurt) else ""


def check_index(path: Path, source: Source, index: Index, id_bytes: int) -> None:
    """Refuse an index whose documents overlap, repeat, lie outside their shards or do not add up.

    Args:
        id_bytes: Bytes of one id.
    """
    file = path / source.index
    counted = len(index), int(index.n_ids.sum()), int(index.n_bytes.sum())
    told = source.n_documents, source.n_tokens, source.n_bytes
    if counted != told:
        raise DataError(
            f"{file}: {counted} documents, tokens and bytes, the manifest says {told}; {REPAIR}"
        )
    lengths = np.array([shard.n_file_bytes for shard in source.shards], "<u8")
    end = index.offset + index.n_ids * np.uint64(id_bytes)
    is_wrong = (index.n_ids < 2) | (index.shard >= len(lengths))
    is_wrong |= end > lengths[np.minimum(index.shard, len(lengths) - 1)]
    follows = (index.shard[1:] > index.shard[:-1]) | (
        (index.shard[1:] == index.shard[:-1]) & (index.offset[1:] >= end[:-1])
    )
    is_wrong[1:] |= ~follows
    if is_wrong.any():
        document = int(np.flatnonzero(is_wrong)[0])
        raise DataError(
            f"{file}: document {document} does not lie after document {document - 1} and within "
            f"its shard (shard {index.shard[document]}, byte {index.offset[document]}); {REPAIR}"
        )


def checksum(data: bytes) -> int:
    """Hash the id bytes of a document to 64 bits."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def document_order(
    n_documents: int, *, seed: int, source: str, epoch: int
) -> Int64[np.ndarray, " N"]:
    """Give the order in which an epoch visits the documents of a source.

    It sorts Philox's raw output, which NumPy keeps the same for ever, and not
    `Generator.permutation`, which it may change between versions (NEP 19).
    """
    key = hashlib.blake2b(f"{seed}/{epoch}/{source}".encode(), digest_size=16).digest()
    random = np.random.Philox(key=np.frombuffer(key, "<u8")).random_raw(n_documents)
    return np.argsort(random, kind="stable")


def check_weights(weights: Mapping[str, float], sources: Iterable[str]) -> dict[str, float]:
    """Give every source its weight; none given means equal weights.

    Raises:
        DataError: A weight names no source, or a source has no weight.
    """
    sources = list(sources)
    if not weights:
        return dict.fromkeys(sources, 1.0)
    for name in weights:
        if name not in sources:
            near = difflib.get_close_matches(name, sources, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sources)}"
            raise DataError(f"data.weights.{name}: the dataset has no such source; {hint}")
    for name in sources:
        if name not in weights:
            raise DataError(f"data.weights: no weight for {name!r}; give one, 0 leaves it out")
    return {name: float(weights[name]) for name in sources if weights[name] > 0}
