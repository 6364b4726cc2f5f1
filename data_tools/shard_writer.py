"""One source of one split on disk: WebDataset tars and their index (see helix/data/shards.py).

A sample of a tar is documents until they make SAMPLE_BYTES of ids:

    de-000000-000000.json     [{"id", "n_tokens", "n_bytes"}, ...], "domain", "pair" where known
    de-000000-000000.jsonl    the documents themselves, one a line; where text is asked for
    de-000000-000000.tokens   their ids, little-endian, one document after the other

Nothing in a tar tells when or by whom it was written.
"""

import io
import json
import tarfile
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from webdataset.writer import TarWriter

from data_tools.documents import Document
from helix.data.files import hash_file
from helix.data.shards import INDEX_DTYPES, Index, Shard, Source, Split, checksum

SAMPLE_BYTES = 256 * 1024  # ids per tar member: below, reading is bound by members, not by bytes
TAR_BLOCK = 512


@dataclass(frozen=True)
class Entry:
    """A document and its ids.

    Attributes:
        ids: Bytes of the ids, with bos and eos.
    """

    document: Document
    ids: bytes
    n_ids: int
    n_bytes: int


class SourceWriter:
    """Writes one source of one split: shards as they fill, the index when `finish` is called."""

    def __init__(
        self,
        root: Path,
        split: Split,
        name: str,
        *,
        id_dtype: str,
        shard_bytes: int,
        with_text: bool = False,
    ) -> None:
        self.root = root
        self.split = split
        self.name = name
        self.id_bytes = np.dtype(id_dtype).itemsize
        self.shard_bytes = shard_bytes
        self.with_text = with_text
        self.files: list[str] = []
        self.tar: TarWriter | None = None
        self.n_samples = 0
        self.sample: list[Entry] = []
        self.n_sample_bytes = 0
        self.columns = {name: array("Q") for name in INDEX_DTYPES}
        self.language = ""
        self.licences: set[str] = set()
        (root / split).mkdir(parents=True, exist_ok=True)

    def add(self, document: Document, ids: bytes) -> None:
        """Add a document; `ids` are the bytes of its ids, with bos and eos."""
        n_bytes = len(document.text.encode())
        self.sample.append(Entry(document, ids, len(ids) // self.id_bytes, n_bytes))
        self.n_sample_bytes += len(ids)
        self.language = document.language
        self.licences.add(document.licence)
        if self.n_sample_bytes >= SAMPLE_BYTES:
            self.write_sample()

    def finish(self) -> Source:
        """Write what is left and the index; give the source's entry in the manifest."""
        if self.sample:
            self.write_sample()
        self.close()
        index = Index(
            **{
                name: np.frombuffer(self.columns[name], np.uint64).astype(dtype)
                for name, dtype in INDEX_DTYPES.items()
            }
        )
        file = f"{self.split}/{self.name}.index.npz"
        arrays: dict[str, Any] = index.arrays()  # for savez, whose arguments pyright mixes up
        np.savez(self.root / file, **arrays)
        return Source(
            language=self.language,
            licences=tuple(sorted(self.licences)),
            n_documents=len(index),
            n_tokens=int(index.n_ids.sum()),
            n_bytes=int(index.n_bytes.sum()),
            index=file,
            index_hash=index.hash(),
            shards=tuple(describe_shard(self.root, name) for name in self.files),
        )

    def write_sample(self) -> None:
        """Write one sample, in a new shard where this one is full."""
        sample, self.sample, self.n_sample_bytes = self.sample, [], 0
        members = {"json": describe(sample), "tokens": b"".join(entry.ids for entry in sample)}
        if self.with_text:
            members["jsonl"] = "".join(map(to_line, sample)).encode()
        n_new = sum(TAR_BLOCK + round_up(len(member), TAR_BLOCK) for member in members.values())
        tar = self.tar
        if tar is None or tar_bytes(tar.tarstream.offset + n_new) > self.shard_bytes:
            tar = self.open_tar()
        key = f"{self.name}-{len(self.files) - 1:06d}-{self.n_samples:06d}"
        tar.write({"__key__": key, **members})
        self.flush()
        self.n_samples += 1
        # members are sorted by name: .tokens came last
        offset = tar.tarstream.offset - round_up(len(members["tokens"]), TAR_BLOCK)
        for entry in sample:
            self.columns["shard"].append(len(self.files) - 1)
            self.columns["offset"].append(offset)
            self.columns["n_ids"].append(entry.n_ids)
            self.columns["n_bytes"].append(entry.n_bytes)
            self.columns["checksum"].append(checksum(entry.ids))
            offset += len(entry.ids)

    def open_tar(self) -> TarWriter:
        """Begin the next shard."""
        self.close()
        self.files.append(f"{self.split}/{self.name}-{len(self.files):06d}.tar")
        self.n_samples = 0
        self.stream = io.BytesIO()
        self.tar = TarWriter(self.stream, user="", group="", mtime=0, encoder=False)
        return self.tar

    def flush(self) -> None:
        """Append what the tar grew by to its file, which is open no longer than that.

        A dataset may have more sources than a process may open files.
        """
        with (self.root / self.files[-1]).open("ab") as file:
            file.write(self.stream.getvalue())
        self.stream.seek(0)
        self.stream.truncate()

    def close(self) -> None:
        """End the shard that is open."""
        if self.tar is not None:
            self.tar.close()
            self.flush()
            self.tar = None


def describe(sample: Sequence[Entry]) -> bytes:
    """Name the documents of a sample, with the lengths that cut its ids apart."""
    facts = []
    for entry in sample:
        fact = {"id": entry.document.id, "n_tokens": entry.n_ids, "n_bytes": entry.n_bytes}
        told = {"domain": entry.document.domain, "pair": entry.document.pair}
        facts.append(fact | {name: value for name, value in told.items() if value})
    return json.dumps(facts, ensure_ascii=False).encode()


def to_line(entry: Entry) -> str:
    """Write a document as one line of JSON, without the fields that say nothing."""
    fields = {name: value for name, value in asdict(entry.document).items() if value}
    return json.dumps(fields, ensure_ascii=False) + "\n"


def round_up(n: int, multiple: int) -> int:
    """Give the next multiple."""
    return -(-n // multiple) * multiple


def tar_bytes(n_member_bytes: int) -> int:
    """Give the length of a tar: its members, two empty blocks, whole records."""
    return round_up(n_member_bytes + 2 * TAR_BLOCK, tarfile.RECORDSIZE)


def describe_shard(root: Path, name: str) -> Shard:
    """Give a shard's entry in the manifest."""
    file = root / name
    return Shard(file=name, n_file_bytes=file.stat().st_size, sha256=hash_file(file))
