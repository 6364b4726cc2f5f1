"""Verification: every fault of a dataset, found by reading all of it.

A shard is read once: its SHA-256, the checksum of each document, bos and eos where they belong
and nowhere else, and what the .json members say of the documents. Over all shards: no id twice in
a source. A fault does not end the search. What lies behind a URL is fetched first: a file that is
missing or wrong there is a fault, one that cannot be had now ends the search.
"""

import hashlib
import itertools
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from helix.data.manifest import FetchError
from helix.data.progress import show_progress
from helix.data.shards import (
    SPLITS,
    DataError,
    Index,
    Shard,
    Source,
    Split,
    check_index,
    check_length,
    checksum,
    json_members,
)
from helix.data.store import Store, open_store

N_THREADS = 2  # hashes and reads of the disk let other threads run
MAX_DOCUMENTS = 10  # named one by one for each fault of a shard; the rest is counted


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is not as it was written.

    Attributes:
        file: Relative to the dataset.
        document: Number in the index of the source; None where no document is concerned.
    """

    file: str
    problem: str
    source: str = ""
    document: int | None = None


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was read and what was found."""

    n_files: int
    n_documents: int
    n_file_bytes: int
    faults: tuple[Fault, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One shard and the documents that the index places in it.

    Attributes:
        file: Where it lies on this machine.
        first: Number of its first document.
        index: Of its documents alone.
        ends: The bos and eos that the dataset's documents have.
    """

    file: Path
    split: Split
    source: str
    shard: Shard
    first: int
    index: Index
    id_dtype: np.dtype
    n_vocab: int
    ends: tuple[int, int]

    def fault(self, problem: str, document: int | None = None) -> Fault:
        """Name a fault of the shard, or of a document by its number among the shard's."""
        number = None if document is None else self.first + document
        return Fault(file=self.shard.file, source=self.source, document=number, problem=problem)


@dataclass(kw_only=True)
class Reading:
    """What reading a shard gave.

    Attributes:
        names: A hash of the id of each document, as the .json members have it.
    """

    faults: list[Fault] = field(default_factory=list)
    names: np.ndarray = field(default_factory=lambda: np.empty(0, "<u8"))


def verify(path: str | Path) -> Verification:
    """Read all of a dataset and tell all its faults.

    Raises:
        FetchError: It lies behind a URL that does not give it now.
    """
    try:
        store = open_store(path)
    except FetchError:
        raise
    except DataError as error:
        faults = (Fault(file="manifest.json", problem=str(error)),)
        return Verification(n_files=1, n_documents=0, n_file_bytes=0, faults=faults)
    manifest = store.manifest
    faults, parts, n_shards = find_parts(store)
    with ThreadPoolExecutor(N_THREADS) as pool:
        futures = [pool.submit(read_part, part) for part in parts]
        readings = [future.result() for future in show_progress(futures, "verify shards")]
    faults += [fault for reading in readings for fault in reading.faults]
    faults += find_repeated_names(parts, readings)
    n_indexes = sum(len(sources) for sources in manifest.splits.values())
    return Verification(
        n_files=1 + n_indexes + n_shards,
        n_documents=sum(len(part.index) for part in parts),
        n_file_bytes=sum(part.shard.n_file_bytes for part in parts),
        faults=tuple(faults),
    )


def find_parts(store: Store) -> tuple[list[Fault], list[Part], int]:
    """Check indexes and lengths; give the faults, the shards that can be read, and their number."""
    faults: list[Fault] = []
    found: list[tuple[Split, str, Path, Shard, int, Index]] = []
    shards: list[tuple[Split, str, int, Shard]] = [
        (split, *each) for split in SPLITS for each in store.manifest.shards(split)
    ]
    indexes = {
        (split, name): check_source(store, name, source, faults)
        for split in SPLITS
        for name, source in sorted(store.manifest.splits[split].items())
    }
    for split, name, number, shard in show_progress(shards, "look for shards"):
        file, index = find_file(store, name, shard, faults), indexes[split, name]
        if file is not None and index is not None:
            first = int(np.searchsorted(index.shard, number))
            last = int(np.searchsorted(index.shard, number, side="right"))
            found.append((split, name, file, shard, first, slice_index(index, first, last)))
    dtype = np.dtype(store.manifest.id_dtype)
    ends = find_ends([(file, index) for _, _, file, _, _, index in found], dtype)
    parts = [
        Part(
            file=file,
            split=split,
            source=name,
            shard=shard,
            first=first,
            index=index,
            id_dtype=dtype,
            n_vocab=store.manifest.n_vocab,
            ends=ends,
        )
        for split, name, file, shard, first, index in found
    ]
    return faults, parts, len(shards)


def check_source(store: Store, name: str, source: Source, faults: list[Fault]) -> Index | None:
    """Read a source's index; note why it cannot be used."""
    try:
        index = store.index(source)
        check_index(store.path, source, index, np.dtype(store.manifest.id_dtype).itemsize)
    except FetchError:
        raise
    except DataError as error:
        faults.append(Fault(file=source.index, source=name, problem=str(error)))
        return None
    return index


def find_file(store: Store, name: str, shard: Shard, faults: list[Fault]) -> Path | None:
    """Give a shard that is there, for its documents whatever its length; note what is wrong."""
    file = None
    try:
        file = store.shard(shard)
        check_length(file, shard.n_file_bytes)
    except FetchError:
        raise
    except DataError as error:
        faults.append(Fault(file=shard.file, source=name, problem=str(error)))
    return file if file is not None and file.is_file() else None


def slice_index(index: Index, first: int, last: int) -> Index:
    """Give the index of some consecutive documents."""
    return Index(**{name: array[first:last] for name, array in index.arrays().items()})


def find_ends(shards: Sequence[tuple[Path, Index]], dtype: np.dtype) -> tuple[int, int]:
    """Tell which ids begin and end documents: those of the first that is intact."""
    for place, index in shards:
        with place.open("rb") as file:
            for document in range(min(len(index), MAX_DOCUMENTS)):
                file.seek(int(index.offset[document]))
                data = file.read(int(index.n_ids[document]) * dtype.itemsize)
                if checksum(data) == index.checksum[document]:
                    ids = np.frombuffer(data, dtype)
                    return int(ids[0]), int(ids[-1])
    return -1, -1


def read_part(part: Part) -> Reading:
    """Read one shard and check all of it."""
    file = part.file
    reading = Reading()
    if not file.stat().st_size:
        return reading  # that it is empty was noted
    data = np.memmap(file, np.uint8, mode="r")
    digest = hashlib.sha256(data.data).hexdigest()
    if digest != part.shard.sha256:
        problem = f"SHA-256 is {digest[:16]}, the manifest says {part.shard.sha256[:16]}"
        reading.faults.append(part.fault(f"bytes changed: {problem}"))
    reading.faults += check_documents(part, data)
    facts, problems = read_facts(file)
    reading.faults += [part.fault(problem) for problem in problems]
    reading.faults += check_facts(part, facts)
    reading.names = np.array([checksum(str(fact["id"]).encode()) for fact in facts], "<u8")
    return reading


def check_documents(part: Part, data: np.ndarray) -> list[Fault]:
    """Check the checksum, the bos and the eos of each document."""
    offsets = part.index.offset.astype(np.int64)
    lengths = part.index.n_ids.astype(np.int64) * part.id_dtype.itemsize
    damaged: list[int] = []
    misplaced: list[int] = []
    for document, (offset, n_bytes) in enumerate(zip(offsets, lengths, strict=True)):
        content = data[offset : offset + n_bytes].tobytes()
        if checksum(content) != part.index.checksum[document]:
            damaged.append(document)
        elif not is_framed(np.frombuffer(content, part.id_dtype), part.n_vocab, part.ends):
            misplaced.append(document)
    return [
        *name_documents(part, damaged, "its bytes changed or are missing"),
        *name_documents(
            part,
            misplaced,
            f"does not begin with id {part.ends[0]}, end with id {part.ends[1]}, have neither "
            f"within and keep below {part.n_vocab}",
        ),
    ]


def is_framed(ids: np.ndarray, n_vocab: int, ends: tuple[int, int]) -> bool:
    """Tell whether a document has bos and eos at its ends alone, and only ids of the vocabulary."""
    bos, eos = ends
    is_end = (ids == bos) | (ids == eos)
    return bool(ids[0] == bos and ids[-1] == eos and is_end.sum() == 2 and int(ids.max()) < n_vocab)


def name_documents(part: Part, documents: Sequence[int], problem: str) -> Iterator[Fault]:
    """Name the first documents that have a fault, and count the others."""
    for document in documents[:MAX_DOCUMENTS]:
        yield part.fault(f"document {problem}", document)
    n_more = len(documents) - MAX_DOCUMENTS
    if n_more > 0:
        yield part.fault(f"{n_more:,} more documents: {problem}")


def read_facts(file: Path) -> tuple[list[dict], list[str]]:
    """Read what the .json members say of the documents; tell why where they cannot be read."""
    facts: list[dict] = []
    try:
        with tarfile.open(file, "r:") as tar:
            for of_member in json_members(tar):
                facts += of_member
        if any(not fact.keys() >= {"id", "n_tokens", "n_bytes"} for fact in facts):
            raise ValueError("a document has no id, n_tokens or n_bytes")
    except (tarfile.TarError, OSError, ValueError, AttributeError, TypeError) as error:
        return [], [f"its .json members cannot be read ({type(error).__name__}: {error})"]
    return facts, []


def check_facts(part: Part, facts: Sequence[dict]) -> list[Fault]:
    """Hold what the .json members say to the index."""
    if len(facts) != len(part.index):
        return [part.fault(f"names {len(facts):,} documents, the index {len(part.index):,}")]
    wrong = [
        document
        for document, (fact, n_ids, n_bytes) in enumerate(
            zip(facts, part.index.n_ids, part.index.n_bytes, strict=True)
        )
        if (fact["n_tokens"], fact["n_bytes"]) != (n_ids, n_bytes)
    ]
    return list(name_documents(part, wrong, "has other lengths in the .json member"))


def find_repeated_names(parts: Sequence[Part], readings: Sequence[Reading]) -> list[Fault]:
    """Name the documents whose id another document of the source has, in any split."""
    faults: list[Fault] = []
    by_source = sorted(zip(parts, readings, strict=True), key=lambda pair: pair[0].source)
    for _, group in itertools.groupby(by_source, key=lambda pair: pair[0].source):
        shards = list(group)
        names = [reading.names for _, reading in shards]
        starts = np.cumsum([0, *map(len, names)])
        repeated = find_repeated(np.concatenate(names))
        for number, (part, _) in enumerate(shards):
            first, last = np.searchsorted(repeated, starts[number : number + 2])
            documents = (repeated[first:last] - starts[number]).tolist()
            faults += name_documents(part, documents, "has the id of another one of its source")
    return faults


def find_repeated(values: np.ndarray) -> np.ndarray:
    """Find the places, rising, of the values that were there before."""
    order = np.argsort(values, kind="stable")
    is_same = values[order[1:]] == values[order[:-1]]
    return np.sort(order[1:][is_same])
