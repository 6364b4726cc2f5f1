"""Make shards: documents to a dataset folder, as helix/data/shards.py describes it.

The documents are read twice: to share them out (data_tools/splits.py), then to write them, so
that they need not fit in memory. Everything is written under a temporary name, the manifest last,
and that folder is renamed at the end: a writer that was killed leaves nothing that looks like a
dataset. The same documents give the same bytes.
"""

import contextlib
import functools
import importlib.metadata
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import sentencepiece

import helix
from data_tools.batches import batch_items, show_documents
from data_tools.documents import Document
from data_tools.options import run_program
from data_tools.overlap_report import refuse_overlap
from data_tools.readers.files import find_files, refuse_inputs_within
from data_tools.result_folder import SOURCE_NAME, new_folder
from data_tools.shard_writer import SourceWriter
from data_tools.splits import SPLITS, UNDECIDED, Survey
from data_tools.text_options import TextOptions
from helix.config import ConfigError
from helix.data import DataError, Dataset
from helix.data.shards import MANIFEST, Manifest, Source, Split
from helix.tokenizer import Tokenizer, load_named

Group = Literal["source", "language", "domain"]
ENCODED_AT_ONCE = 512  # documents handed to encode_many at the most, so that it can use all cores


@dataclass(frozen=True, kw_only=True)
class MakeShardsOptions(TextOptions):
    """Options of `shard`.

    Attributes:
        out: Folder of the dataset.
        tokenizer: .model file, or "byte".
        checked: report.json of `decontaminate`, or its folder: a document that it did not find
            clean is refused.
        unchecked: Go without that report: scores on evaluation sets may then be recited.
        group: What is one source of the dataset, with its own weight and its own bits per byte: a
            source of the documents, or all that is in one language, or of one domain in it.
        validation_fraction: Share of the documents to hold out, by a hash of their text, where
            they do not say their split themselves.
        shard_bytes: Bytes of a shard at the most, unless one member is larger.
        with_text: Write the documents themselves into the shards, beside their ids.
        replace: Replace a dataset that is there.
    """

    out: str
    tokenizer: str
    checked: str = ""
    unchecked: bool = False
    group: Group = "source"
    validation_fraction: float = 0.02
    seed: int = 0
    shard_bytes: int = 256 * 1024 * 1024
    with_text: bool = False
    replace: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.checked) == self.unchecked:
            raise ConfigError(
                f"checked={self.checked!r}: give the report of helix data decontaminate, or "
                "unchecked=true to shard text that may hold evaluation sets"
            )


class CheckedDocuments:
    """Documents of a person's own files, to be read as often as need be."""

    def __init__(self, options: MakeShardsOptions) -> None:
        self.options = options
        self.tasks = itertools.chain(["share out documents"], itertools.repeat("write shards"))

    def __iter__(self) -> Iterator[Document]:
        documents = show_documents(self.options, next(self.tasks))
        if self.options.checked:
            documents = refuse_overlap(self.options.checked, documents)
        return (regroup(document, self.options.group) for document in documents)


def regroup(document: Document, group: Group) -> Document:
    """Name a document's source by what the dataset is to tell apart; its id then says the rest."""
    if group == "source":
        return document
    parts = [document.language] + ([document.domain or "other"] if group == "domain" else [])
    return replace(document, source="-".join(parts), id=f"{document.source}/{document.id}")


def run(options: MakeShardsOptions) -> Dataset:
    """Make a dataset of a person's own files.

    Raises:
        DataError: An input lies in the folder to write; also as `make_shards` raises it.
    """
    refuse_inputs_within(options.out, find_files(options.inputs))
    return make_shards(
        CheckedDocuments(options),
        load_named(options.tokenizer),
        options.out,
        validation_fraction=options.validation_fraction,
        seed=options.seed,
        shard_bytes=options.shard_bytes,
        with_text=options.with_text,
        replace=options.replace,
    )


def make_shards(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    path: str | Path,
    *,
    validation_fraction: float = 0.02,
    seed: int = 0,
    shard_bytes: int = 256 * 1024 * 1024,
    with_text: bool = False,
    replace: bool = False,
) -> Dataset:
    """Write a dataset and open its training split. A text that occurs twice is written once.

    Args:
        documents: To be iterated twice, each time the same.
        validation_fraction: Share of the documents to hold out, by a hash of their text; at least
            one of each source unless it is 0. See data_tools/splits.py.
        seed: Of that hash.
        with_text: Write the documents themselves into the shards, beside their ids.
        replace: Replace a dataset that is there; otherwise that is an error.

    Raises:
        DataError: There is a dataset already, or what is there is no result that could be
            replaced; a source is too small to be split, or two documents of a source have one id.
    """
    if not 0 <= validation_fraction < 1:
        raise DataError(f"validation_fraction={validation_fraction}: give a value in [0, 1)")
    if seed < 0:
        raise DataError(f"seed={seed}: give at least 0")
    with new_folder(path, replace=replace) as folder:
        survey = Survey(documents, seed=seed)
        refuse_bad_sources(survey)
        refuse_repeated_ids(survey, documents)
        splits = survey.assign(fraction=validation_fraction)
        id_dtype = "<u2" if tokenizer.n_vocab <= 65_536 else "<u4"
        shares = encode(share_out(documents, survey, splits.tolist()), tokenizer, id_dtype=id_dtype)
        writer_of = functools.partial(
            SourceWriter, folder, id_dtype=id_dtype, shard_bytes=shard_bytes, with_text=with_text
        )
        manifest = Manifest(
            tokenizer_fingerprint=tokenizer.fingerprint,
            n_vocab=tokenizer.n_vocab,
            id_dtype=id_dtype,
            splits=write_shares(shares, writer_of),
            creation={
                "validation_fraction": float(validation_fraction),
                "seed": seed,
                "shard_bytes": shard_bytes,
            },
            versions={
                "helix": helix.__version__,
                "sentencepiece": sentencepiece.__version__,
                "webdataset": importlib.metadata.version("webdataset"),
            },
        )
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Dataset.open(path)


def write_shares(
    shares: Iterable[tuple[tuple[Split, str], Document, bytes]],
    writer_of: Callable[[Split, str], SourceWriter],
) -> dict[str, dict[str, Source]]:
    """Write each document to its split and source; give the manifest's entries."""
    written: dict[str, dict[str, Source]] = {split: {} for split in SPLITS}
    with contextlib.ExitStack() as stack:
        writers: dict[tuple[Split, str], SourceWriter] = {}
        for key, document, ids in shares:
            if key not in writers:
                writers[key] = writer_of(*key)
                stack.callback(writers[key].close)
            writers[key].add(document, ids)
        for (split, source), writer in sorted(writers.items()):
            written[split][source] = writer.finish()
    return written


def share_out(
    documents: Iterable[Document], survey: Survey, splits: list[int]
) -> Iterator[tuple[tuple[Split, str], Document]]:
    """Yield the documents to write, each with its split and source.

    Raises:
        DataError: The documents are not those that were surveyed.
    """
    n_documents = 0
    for n_documents, document in enumerate(documents, start=1):
        at = n_documents - 1
        if at >= len(splits) or not survey.is_text_at(at, document.text):
            raise DataError(f"{document.id}: the text changed while shards were made; start again")
        if splits[at] != UNDECIDED:
            yield (SPLITS[splits[at] - 1], document.source), document
    if n_documents < len(splits):
        raise DataError("the text became shorter while shards were made; start again")


def encode(
    shares: Iterable[tuple[tuple[Split, str], Document]], tokenizer: Tokenizer, *, id_dtype: str
) -> Iterator[tuple[tuple[Split, str], Document, bytes]]:
    """Add the bytes of each document's ids, with bos and eos."""
    for some in batch_items(shares, lambda share: share[1].text, n_items=ENCODED_AT_ONCE):
        encoded = tokenizer.encode_many([document.text for _, document in some])
        for (key, document), ids in zip(some, encoded, strict=True):
            data = np.array([tokenizer.bos_id, *ids, tokenizer.eos_id], id_dtype)
            yield key, document, data.tobytes()


def refuse_bad_sources(survey: Survey) -> None:
    """Refuse a name that cannot be a file's, and a source of two languages."""
    for source, languages in survey.languages.items():
        if not SOURCE_NAME.fullmatch(source):
            raise DataError(f"source {source!r}: give a name of letters, digits, - and _, up to 48")
        if len(languages) > 1:
            raise DataError(
                f"source {source!r} is in {' and '.join(sorted(languages))}; give each language a "
                "source of its own, since bits per byte are reported by source, or group=language"
            )


def refuse_repeated_ids(survey: Survey, documents: Iterable[Document]) -> None:
    """Refuse two texts of one source under one id: no document could be traced by it."""
    places = survey.repeated_id()
    if places is not None:
        first, second = places
        document = next(itertools.islice(documents, first, None))
        raise DataError(
            f"documents {first + 1} and {second + 1} of the input are different texts of the "
            f"source {document.source!r} under one id, {document.id!r}; give each its own id"
        )


if __name__ == "__main__":
    run_program(run, MakeShardsOptions, sys.argv[1:])
