"""Make shards: documents to a dataset folder, as helix/data/shards.py describes it.

Everything is written to `<path>.partial`, the manifest last, and that folder is renamed at the
end: a writer that was killed leaves nothing that looks like a dataset. The same documents give
the same bytes.
"""

import hashlib
import json
import shutil
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from webdataset.writer import TarWriter

from data_tools.documents import Document, read_documents
from data_tools.options import run_program
from data_tools.overlap_report import refuse_overlap
from data_tools.result_folder import SOURCE_NAME, place_folder
from helix.data import DataError, Dataset
from helix.data.progress import show_progress
from helix.data.shards import (
    INDEX_DTYPES,
    MANIFEST,
    SPLITS,
    Index,
    Manifest,
    Shard,
    Source,
    Split,
    checksum,
)
from helix.tokenizer import Tokenizer, TokenizerConfig, load_tokenizer

SAMPLE_BYTES = 256 * 1024  # ids per tar member: below, reading is bound by members, not by bytes
TAR_BLOCK = 512
ENCODED_AT_ONCE = 512  # documents handed to encode_many, so that it can use all cores


@dataclass(frozen=True, kw_only=True)
class MakeShardsOptions:
    """Options of `make-shards`.

    Attributes:
        inputs: .txt and .jsonl files, or folders of them.
        out: Folder of the dataset.
        tokenizer: .model file, or "byte".
        validation_fraction: Share of the documents to hold out, by a hash of their text.
        shard_bytes: Bytes of a shard at the most, unless one member is larger.
        licence: Of the inputs that do not say theirs.
        checked: report.json of `decontaminate`, or its folder: a document that it did not find
            clean is refused.
        replace: Replace a dataset that is there.
    """

    inputs: tuple[str, ...]
    out: str
    tokenizer: str
    validation_fraction: float = 0.02
    seed: int = 0
    shard_bytes: int = 256 * 1024 * 1024
    licence: str = "unstated"
    checked: str = ""
    replace: bool = False


def run(options: MakeShardsOptions) -> Dataset:
    """Make a dataset of a person's own files."""
    is_byte = options.tokenizer == "byte"
    config = TokenizerConfig(
        kind="byte" if is_byte else "sentencepiece", path=None if is_byte else options.tokenizer
    )
    documents = read_documents(options.inputs, licence=options.licence)
    if options.checked:
        documents = list(refuse_overlap(options.checked, documents))
    return make_shards(
        documents,
        load_tokenizer(config),
        options.out,
        validation_fraction=options.validation_fraction,
        seed=options.seed,
        shard_bytes=options.shard_bytes,
        replace=options.replace,
    )


def make_shards(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    path: str | Path,
    *,
    validation_fraction: float = 0.02,
    seed: int = 0,
    shard_bytes: int = 256 * 1024 * 1024,
    replace: bool = False,
) -> Dataset:
    """Write a dataset and open its training split. A text that occurs twice is written once.

    Args:
        validation_fraction: Share of the documents to hold out, by a hash of their text; at least
            one of each source unless it is 0.
        seed: Of that hash.
        replace: Replace a dataset that is there; otherwise that is an error.

    Raises:
        DataError: There is a dataset already, or a source is too small to be split.
    """
    path = Path(path)
    if not 0 <= validation_fraction < 1:
        raise DataError(f"validation_fraction={validation_fraction}: give a value in [0, 1)")
    if seed < 0:
        raise DataError(f"seed={seed}: give at least 0")
    if path.exists() and not replace:
        raise DataError(f"{path}: is there already; give another folder, or replace=true")
    parts = split_documents(documents, fraction=validation_fraction, seed=seed)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    id_dtype = "<u2" if tokenizer.n_vocab <= 65_536 else "<u4"
    splits: dict[str, dict[str, Source]] = {split: {} for split in SPLITS}
    for (split, source), part in sorted(parts.items()):
        writer = SourceWriter(partial, split, source, id_dtype=id_dtype, shard_bytes=shard_bytes)
        splits[split][source] = writer.write(part, tokenizer)
    manifest = Manifest(
        tokenizer_fingerprint=tokenizer.fingerprint,
        n_vocab=tokenizer.n_vocab,
        id_dtype=id_dtype,
        splits=splits,
        creation={
            "validation_fraction": float(validation_fraction),
            "seed": seed,
            "shard_bytes": shard_bytes,
        },
    )
    (partial / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    place_folder(partial, path)
    return Dataset.open(path)


def hash_text(text: str, *, seed: int) -> int:
    """Hash a text to 64 bits: what decides whether it is held out."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, salt=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")


def split_documents(
    documents: Sequence[Document], *, fraction: float, seed: int
) -> dict[tuple[Split, str], list[Document]]:
    """Share out the documents, each text once, to (split, source), by their text alone."""
    by_source: dict[str, list[tuple[int, Document]]] = defaultdict(list)
    seen: set[bytes] = set()
    for document in documents:
        text = document.text.encode()
        digest = hashlib.blake2b(text, digest_size=16).digest()
        if text and digest not in seen:
            seen.add(digest)
            by_source[document.source].append((hash_text(document.text, seed=seed), document))
    if not by_source:
        raise DataError("no text given: there is no document to make shards of")
    parts: dict[tuple[Split, str], list[Document]] = {}
    for source, hashed in by_source.items():
        check_source(source, [document for _, document in hashed])
        limit = choose_limit(source, [value for value, _ in hashed], fraction)
        parts["train", source] = [document for value, document in hashed if value >= limit]
        if limit > 0:
            parts["validation", source] = [document for value, document in hashed if value < limit]
    return parts


def choose_limit(source: str, hashes: Sequence[int], fraction: float) -> int:
    """Choose the hash below which a document is held out, so that neither split is empty."""
    if fraction == 0:
        return 0
    ordered = sorted(hashes)
    if len(ordered) < 2:
        raise DataError(
            f"source {source!r} has only one document, and one must be held out; give more text "
            "(about 8 kB), or validation_fraction=0"
        )
    return min(max(int(fraction * 2**64), ordered[0] + 1), ordered[-1])


def check_source(source: str, documents: Sequence[Document]) -> None:
    """Refuse a name that cannot be a file's, and a source of two languages."""
    if not SOURCE_NAME.fullmatch(source):
        raise DataError(f"source {source!r}: give a name of letters, digits, - and _, up to 48")
    languages = sorted({document.language for document in documents})
    if len(languages) > 1:
        raise DataError(
            f"source {source!r} is in {' and '.join(languages)}; give each language a source of "
            "its own, since bits per byte are reported by source"
        )


@dataclass(frozen=True)
class Entry:
    """A document as the index and its .json member have it."""

    id: str
    ids: bytes
    n_ids: int
    n_bytes: int


def group_entries(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Group entries to samples of at least SAMPLE_BYTES; only the last may be smaller."""
    sample: list[Entry] = []
    n_bytes = 0
    for entry in entries:
        sample.append(entry)
        n_bytes += len(entry.ids)
        if n_bytes >= SAMPLE_BYTES:
            yield sample
            sample, n_bytes = [], 0
    if sample:
        yield sample


class SourceWriter:
    """Writes one source of one split: its shards, then its index."""

    def __init__(
        self, root: Path, split: Split, source: str, *, id_dtype: str, shard_bytes: int
    ) -> None:
        self.root = root
        self.split = split
        self.source = source
        self.id_dtype = id_dtype
        self.shard_bytes = shard_bytes
        self.files: list[str] = []
        self.tar: TarWriter | None = None
        self.n_samples = 0
        self.rows: list[tuple[int, int, int, int, int]] = []
        (root / split).mkdir(parents=True, exist_ok=True)

    def write(self, documents: Sequence[Document], tokenizer: Tokenizer) -> Source:
        """Write all the documents and tell what was written."""
        try:
            for sample in group_entries(self.encode(documents, tokenizer)):
                self.write_sample(sample)
        finally:
            self.close_tar()
        return self.describe(documents)

    def encode(self, documents: Sequence[Document], tokenizer: Tokenizer) -> Iterator[Entry]:
        """Yield the documents' ids as bytes."""
        starts = range(0, len(documents), ENCODED_AT_ONCE)
        for start in show_progress(starts, f"write {self.split}/{self.source}"):
            some = documents[start : start + ENCODED_AT_ONCE]
            encoded = tokenizer.encode_many([document.text for document in some])
            for document, ids in zip(some, encoded, strict=True):
                data = np.array([tokenizer.bos_id, *ids, tokenizer.eos_id], self.id_dtype)
                yield Entry(document.id, data.tobytes(), len(data), len(document.text.encode()))

    def write_sample(self, sample: Sequence[Entry]) -> None:
        """Write one .json and one .tokens member, in a new shard where this one is full."""
        tokens = b"".join(entry.ids for entry in sample)
        facts = [
            {"id": entry.id, "n_tokens": entry.n_ids, "n_bytes": entry.n_bytes} for entry in sample
        ]
        description = json.dumps(facts, ensure_ascii=False).encode()
        n_new = 2 * TAR_BLOCK + round_up(len(tokens), TAR_BLOCK)
        n_new += round_up(len(description), TAR_BLOCK)
        tar = self.tar
        if tar is None or tar_bytes(tar.tarstream.offset + n_new) > self.shard_bytes:
            tar = self.open_tar()
        key = f"{self.source}-{len(self.files) - 1:06d}-{self.n_samples:06d}"
        tar.write({"__key__": key, "json": description, "tokens": tokens})
        self.n_samples += 1
        # members are sorted by name: .tokens came last
        offset = tar.tarstream.offset - round_up(len(tokens), TAR_BLOCK)
        for entry in sample:
            self.rows.append(
                (len(self.files) - 1, offset, entry.n_ids, entry.n_bytes, checksum(entry.ids))
            )
            offset += len(entry.ids)

    def open_tar(self) -> TarWriter:
        """Begin the next shard; nothing in it tells when or by whom it was written."""
        self.close_tar()
        self.files.append(f"{self.split}/{self.source}-{len(self.files):06d}.tar")
        self.n_samples = 0
        self.stream = (self.root / self.files[-1]).open("wb")
        self.tar = TarWriter(self.stream, user="", group="", mtime=0, encoder=False)
        return self.tar

    def close_tar(self) -> None:
        """End the shard that is open."""
        if self.tar is not None:
            self.tar.close()
            self.stream.close()
            self.tar = None

    def describe(self, documents: Sequence[Document]) -> Source:
        """Write the index and give the source's entry in the manifest."""
        columns = zip(*self.rows, strict=True)
        index = Index(
            **{
                name: np.array(column, dtype)
                for (name, dtype), column in zip(INDEX_DTYPES.items(), columns, strict=True)
            }
        )
        file = f"{self.split}/{self.source}.index.npz"
        np.savez(self.root / file, **index.arrays())
        return Source(
            language=documents[0].language,
            licences=tuple(sorted({document.licence for document in documents})),
            n_documents=len(index),
            n_tokens=int(index.n_ids.sum()),
            n_bytes=int(index.n_bytes.sum()),
            index=file,
            index_hash=index.hash(),
            shards=tuple(describe_shard(self.root, name) for name in self.files),
        )


def round_up(n: int, multiple: int) -> int:
    """Give the next multiple."""
    return -(-n // multiple) * multiple


def tar_bytes(n_member_bytes: int) -> int:
    """Give the length of a tar: its members, two empty blocks, whole records."""
    return round_up(n_member_bytes + 2 * TAR_BLOCK, tarfile.RECORDSIZE)


def describe_shard(root: Path, name: str) -> Shard:
    """Give a shard's entry in the manifest."""
    with (root / name).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Shard(file=name, n_file_bytes=(root / name).stat().st_size, sha256=sha256)


if __name__ == "__main__":
    run_program(run, MakeShardsOptions, sys.argv[1:])
