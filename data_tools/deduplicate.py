"""Deduplicate: remove documents that are there already, exactly or nearly, across all sources.

Exact duplicates have the same text (`exact=text`) or the same words (`exact=words`). Near
duplicates share at least `threshold` of their runs of `ngram_words` words (Jaccard): MinHash
proposes pairs, the true similarity decides. Of a group the document of the first source stays,
then the longest, then that with the smallest hash, then the smallest id.
"""

import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Literal, cast

from rich.console import Console
from rich.table import Table

from data_tools.batches import choose_workers, map_batches, show_documents, show_stream, text_of
from data_tools.documents import Document
from data_tools.duplicate_index import Counts, DuplicateIndex, Pair
from data_tools.fingerprints import fingerprint_texts, hash_text
from data_tools.minhash import Bands, choose_bands
from data_tools.options import run_program
from data_tools.readers.files import find_files, refuse_inputs_within
from data_tools.result_folder import SourceFiles, new_folder, open_text, to_line
from data_tools.text_options import TextOptions
from helix.data import DataError

SAMPLED_PAIRS = 100
SAMPLE_CHARACTERS = 600


@dataclass(frozen=True, kw_only=True)
class DeduplicateOptions(TextOptions):
    """Options of `deduplicate`.

    Attributes:
        out: Folder of what stays, <source>.jsonl, with report.json and pairs.ndjson.
        near: Remove near duplicates too.
        threshold: Share of common word runs (Jaccard) from which two documents are duplicates.
        n_permutations: Length of a MinHash signature at the most.
        ngram_words: Words of a run.
        exact: "text": the same text; "words": the same but for case, spacing and punctuation.
        prefer: Sources whose documents stay, best first, with commas; the others follow in the
            order of the inputs.
        memory_gib: For the index; the program itself takes about 0.5, each process 0.3.
        n_workers: Processes; 0 takes all cores for a large input.
        replace: Replace a result that is there.
        json: Print the report as JSON.
    """

    out: str
    near: bool = True
    threshold: float = 0.8
    n_permutations: int = 128
    ngram_words: int = 5
    exact: Literal["text", "words"] = "text"
    prefer: str = ""
    memory_gib: float = 1.0
    n_workers: int = 0
    replace: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold}: give a value in (0, 1]")
        if not 1 <= self.n_permutations <= 4096:
            raise ValueError(f"n_permutations={self.n_permutations}: give 1 to 4096")
        if self.ngram_words < 1:
            raise ValueError(f"ngram_words={self.ngram_words}: give at least 1")
        if self.memory_gib < 0.0625:
            raise ValueError(f"memory_gib={self.memory_gib}: give at least 0.0625")
        if self.n_workers < 0:
            raise ValueError(f"n_workers={self.n_workers}: give at least 1, or 0 to let it choose")


@dataclass(frozen=True)
class DeduplicateReport:
    """What a deduplication did.

    Attributes:
        n_bands: Buckets per document; 0 where near duplicates were not looked for.
        recall_at_threshold: Share of near duplicates exactly at the threshold that are found.
        n_not_compared: Documents with more possible originals than they were compared with.
    """

    options: dict[str, object]
    n_bands: int
    n_rows: int
    recall_at_threshold: float
    n_not_compared: int
    sources: tuple[Counts, ...]


def run(options: DeduplicateOptions) -> DeduplicateReport:
    """Deduplicate a person's own files and print what happened."""
    started = time.perf_counter()
    report = deduplicate(options)
    if options.json:
        json.dump(asdict(report), sys.stdout, indent=1)
        print()
    else:
        print_report(report, time.perf_counter() - started)
    return report


def deduplicate(options: DeduplicateOptions) -> DeduplicateReport:
    """Write what stays of the inputs to `options.out`; the same inputs give the same bytes.

    Raises:
        DataError: An input cannot be read or changed meanwhile, `prefer` names no source, or
            there is a result already.
    """
    if options.near and importlib.util.find_spec("rensa") is None:
        raise DataError(
            "near duplicates need rensa; run: pip install -e '.[data]', or give near=false"
        )
    bands = choose_bands(options.n_permutations, options.threshold) if options.near else None
    refuse_inputs_within(options.out, find_files(options.inputs))
    with new_folder(options.out, replace=options.replace) as folder:
        with closing(DuplicateIndex(folder / "index", memory_gib=options.memory_gib)) as index:
            fill_index(index, options, bands)
            index.rank(order_sources(index.sources(), options.prefer))
            if bands is not None:
                for _ in show_stream(index.remove_near(options.threshold), "compare documents"):
                    pass
            write_kept(index, options, folder)
            report = describe(index, options, bands)
        shutil.rmtree(folder / "index")
        text = json.dumps(asdict(report), ensure_ascii=False, indent=1)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    return report


def fill_index(index: DuplicateIndex, options: DeduplicateOptions, bands: Bands | None) -> None:
    """Read all documents into the index."""
    fingerprint = partial(
        fingerprint_texts, bands=bands, ngram_words=options.ngram_words, exact=options.exact
    )
    n_workers = choose_workers(options.inputs, options.n_workers)
    documents = show_documents(options, "read documents")
    for batch, prints in map_batches(fingerprint, documents, pick=text_of, n_workers=n_workers):
        index.add([(document.source, document.id) for document in batch], prints)


def order_sources(sources: list[str], prefer: str) -> list[str]:
    """Put the preferred sources first."""
    preferred = [name.strip() for name in prefer.split(",") if name.strip()]
    for name in preferred:
        if name not in sources:
            raise DataError(f"prefer={prefer}: no source {name!r}; there are: {', '.join(sources)}")
    return list(dict.fromkeys([*preferred, *sources]))


def write_kept(index: DuplicateIndex, options: DeduplicateOptions, folder: Path) -> None:
    """Write the documents that stay, in the order of the input, and the removed pairs."""
    sample = index.sample_pairs(SAMPLED_PAIRS)
    wanted = {place for pair in sample for place in (pair.position, pair.kept_position)}
    texts: dict[int, str] = {}
    with SourceFiles(folder) as files:
        for position, (document, is_kept) in enumerate(reread(index, options)):
            if position in wanted:
                texts[position] = document.text[:SAMPLE_CHARACTERS]
            if is_kept:
                files.write(document)
    # not .jsonl: whoever gives the folder to the next verb means the documents
    with open_text(folder / "pairs.ndjson") as file:
        for pair in index.pairs():
            file.write(to_line(describe_pair(pair, texts)))


def reread(index: DuplicateIndex, options: DeduplicateOptions) -> Iterator[tuple[Document, bool]]:
    """Read the inputs again, each document with whether it stays."""
    documents = show_documents(options, "write what stays")
    for document, indexed in zip_longest(documents, index.text_hashes()):
        if document is None or indexed is None:
            raise DataError(
                f"the text became {'shorter' if document is None else 'longer'} while it was "
                "read; start again when nobody writes to the inputs"
            )
        text_hash, is_kept = indexed
        if hash_text(document.text) != text_hash:
            raise DataError(
                f"document {document.id} of {document.source} changed while it was read; start "
                "again when nobody writes to the inputs"
            )
        yield document, bool(is_kept)


def describe_pair(pair: Pair, texts: dict[int, str]) -> dict[str, object]:
    """Describe a removed document, with the beginnings of both texts if it is in the sample."""
    row: dict[str, object] = {
        "removed": pair.id,
        "source": pair.source,
        "kept": pair.kept_id,
        "kept_source": pair.kept_source,
        "kind": pair.kind,
        "similarity": round(pair.similarity, 4),
    }
    if pair.kind == "near" and pair.position in texts and pair.kept_position in texts:
        row |= {
            "removed_text": texts[pair.position],
            "kept_text": texts[pair.kept_position],
        }
    return row


def describe(
    index: DuplicateIndex, options: DeduplicateOptions, bands: Bands | None
) -> DeduplicateReport:
    """Sum up a deduplication."""
    said = asdict(options)
    for name in ("out", "n_workers", "memory_gib", "replace", "json"):  # do not change the result
        del said[name]
    return DeduplicateReport(
        options=said,
        n_bands=bands.n_bands if bands else 0,
        n_rows=bands.n_rows if bands else 0,
        recall_at_threshold=round(bands.recall, 4) if bands else 0.0,
        n_not_compared=index.n_not_compared,
        sources=tuple(index.counts()),
    )


def print_report(report: DeduplicateReport, wall_s: float) -> None:
    """Print what became of each source."""
    table = Table(title="deduplicate")
    for name in ("source", "documents", "MB"):
        table.add_column(name, justify="left" if name == "source" else "right")
    for name in ("exact within", "across", "near within", "across", "kept", "kept MB"):
        table.add_column(name, justify="right")
    rows = [list(asdict(counts).values()) for counts in report.sources]
    if len(rows) > 1:
        columns = list(zip(*rows, strict=True))[1:]
        rows.append(["all", *(sum(cast(tuple[int, ...], column)) for column in columns)])
    for source, n, n_bytes, n_kept, n_kept_bytes, *removed in rows:
        counts = [f"{count:,}" for count in removed]
        mb, kept_mb = f"{n_bytes / 1e6:.2f}", f"{n_kept_bytes / 1e6:.2f}"
        table.add_row(source, f"{n:,}", mb, *counts, f"{n_kept:,}", kept_mb)
    console = Console()
    console.print(table)
    n_bytes = sum(counts.n_bytes for counts in report.sources)
    console.print(f"{wall_s:.1f} s, {n_bytes / 1e6 / wall_s:.1f} MB/s", highlight=False)
    if report.n_not_compared:
        console.print(f"{report.n_not_compared:,} documents had too many possible originals")


if __name__ == "__main__":
    run_program(run, DeduplicateOptions, sys.argv[1:])
