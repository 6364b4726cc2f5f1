"""Decontaminate: remove the documents that contain passages of evaluation sets.

    helix data decontaminate corpus.jsonl against=facts.jsonl,cloze.jsonl out=clean

evaluation_items.py and overlap.py say what counts, overlap_report.py how a later step holds to it.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from data_tools.batches import choose_workers, map_batches, show_documents, text_of
from data_tools.documents import Document
from data_tools.evaluation_items import read_items
from data_tools.fingerprints import hash_text
from data_tools.options import run_program
from data_tools.overlap import EvaluationIndex, Item, Overlap, find_overlaps
from data_tools.overlap_report import (
    CLEAN,
    CONTRACT,
    OVERLAPPING,
    REPORT,
    HashFile,
    sort_hashes,
)
from data_tools.readers.files import find_files, refuse_inputs_within
from data_tools.result_folder import SourceFiles, new_folder, open_text, to_line
from data_tools.text_options import TextOptions
from helix.data import DataError
from helix.data.files import hash_file

SAMPLES = 5  # documents named for each item that was found
NAMED_ITEMS = 1000  # uncheckable items named for each file; the number tells of all


@dataclass(frozen=True, kw_only=True)
class DecontaminateOptions(TextOptions):
    """Options of `decontaminate`.

    Attributes:
        against: .jsonl files of evaluation items, with commas.
        out: Folder of the clean documents, <source>.jsonl, with report.json and removed.ndjson.
        ngram_words: Words of a run that counts as an overlap.
        fields: Fields of the items to check, with commas; "" checks every string but id, source,
            licence and the like.
        n_workers: Processes; 0 takes all cores for a large input.
        replace: Replace a result that is there.
        json: Print the report as JSON.
    """

    against: str
    out: str
    ngram_words: int = 13
    fields: str = ""
    n_workers: int = 0
    replace: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.evaluations():
            raise ValueError(f"against={self.against}: give .jsonl files of evaluation items")
        if self.ngram_words < 1:
            raise ValueError(f"ngram_words={self.ngram_words}: give at least 1")
        if self.n_workers < 0:
            raise ValueError(f"n_workers={self.n_workers}: give at least 1, or 0 to let it choose")

    def evaluations(self) -> list[str]:
        """List the evaluation files."""
        return split_names(self.against)


@dataclass(frozen=True)
class EvaluationCounts:
    """What became of an evaluation file.

    Attributes:
        n_uncheckable: Items with too few words to be looked for.
        uncheckable: The first of them.
        n_found: Items that occur in some document.
        n_documents: Documents that contain any.
    """

    file: str
    sha256: str
    n_items: int
    n_uncheckable: int
    uncheckable: tuple[str, ...]
    n_found: int
    n_documents: int


@dataclass(frozen=True)
class FoundItem:
    """An item that occurs in documents, with some of them."""

    file: str
    item: str
    n_documents: int
    n_runs: int
    samples: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class SourceCounts:
    """What became of a source."""

    source: str
    n_documents: int
    n_bytes: int
    n_removed_documents: int
    n_removed_bytes: int


@dataclass(frozen=True)
class DecontaminateReport:
    """What a decontamination found, and what it vouches for (`contract`)."""

    options: dict[str, object]
    evaluations: tuple[EvaluationCounts, ...]
    sources: tuple[SourceCounts, ...]
    found: tuple[FoundItem, ...]
    clean: HashFile
    overlapping: HashFile
    contract: str = CONTRACT


@dataclass
class Tally:
    """Counts while documents pass."""

    sources: dict[str, Counter[str]] = field(default_factory=dict)
    n_documents_by_file: Counter[int] = field(default_factory=Counter)
    n_documents_by_item: Counter[int] = field(default_factory=Counter)
    n_runs_by_item: Counter[int] = field(default_factory=Counter)
    samples: dict[int, list[dict[str, str]]] = field(default_factory=dict)

    def add(self, document: Document, overlaps: Sequence[Overlap], items: Sequence[Item]) -> None:
        """Count one document."""
        counts = self.sources.setdefault(document.source, Counter())
        n_bytes = len(document.text.encode())
        counts["n_documents"] += 1
        counts["n_bytes"] += n_bytes
        counts["n_removed_documents"] += bool(overlaps)
        counts["n_removed_bytes"] += n_bytes * bool(overlaps)
        self.n_documents_by_file.update({items[overlap.item].file for overlap in overlaps})
        for overlap in overlaps:
            self.n_documents_by_item[overlap.item] += 1
            self.n_runs_by_item[overlap.item] += overlap.n_runs
            samples = self.samples.setdefault(overlap.item, [])
            if len(samples) < SAMPLES:
                named = {"source": document.source, "id": document.id, "words": overlap.words}
                samples.append(named)


def run(options: DecontaminateOptions) -> DecontaminateReport:
    """Decontaminate a person's own files and print what was found."""
    report = decontaminate(options)
    if options.json:
        json.dump(asdict(report), sys.stdout, indent=1)
        print()
    else:
        print_report(report)
    return report


def decontaminate(options: DecontaminateOptions) -> DecontaminateReport:
    """Write the inputs' clean documents to `options.out`; the same inputs give the same bytes.

    Raises:
        DataError: An input or an evaluation file cannot be read, no item can be checked, or there
            is a result already.
    """
    index = read_evaluations(options)
    refuse_inputs_within(options.out, find_files(options.inputs))
    with new_folder(options.out, replace=options.replace) as folder:
        tally = write_clean(index, options, folder)
        report = DecontaminateReport(
            options={
                "inputs": list(options.inputs),
                "field": options.field,
                "source": options.source,
                "ngram_words": options.ngram_words,
                "fields": options.fields,
            },
            evaluations=tuple(
                describe_file(path, file, index, tally)
                for file, path in enumerate(options.evaluations())
            ),
            sources=tuple(
                SourceCounts(source, **tally.sources[source]) for source in sorted(tally.sources)
            ),
            found=tuple(describe_items(options.evaluations(), index, tally)),
            clean=sort_hashes(folder / CLEAN),
            overlapping=sort_hashes(folder / OVERLAPPING),
        )
        text = json.dumps(asdict(report), ensure_ascii=False, indent=1)
        (folder / REPORT).write_text(text + "\n", encoding="utf-8")
    return report


def read_evaluations(options: DecontaminateOptions) -> EvaluationIndex:
    """Index all evaluation files."""
    items: list[Item] = []
    for file, path in enumerate(options.evaluations()):
        read = read_items(
            Path(path), file, ngram_words=options.ngram_words, fields=split_names(options.fields)
        )
        own = list(read)
        if not any(item.passages for item in own):
            raise DataError(
                f"against={path}: no item has enough words to be looked for; give a file with "
                "longer items, or fields= that hold their text"
            )
        items += own
    return EvaluationIndex.build(items, ngram_words=options.ngram_words)


def write_clean(index: EvaluationIndex, options: DecontaminateOptions, folder: Path) -> Tally:
    """Check every document; write it where it belongs."""
    tally = Tally()
    documents = show_documents(options, "check documents")
    check = partial(find_overlaps, index=index)
    n_workers = choose_workers(options.inputs, options.n_workers)
    with (
        SourceFiles(folder) as files,
        (folder / CLEAN).open("wb") as clean,
        (folder / OVERLAPPING).open("wb") as overlapping,
        # not .jsonl: whoever gives the folder to the next verb means the documents
        open_text(folder / "removed.ndjson") as removed,
    ):
        batches = map_batches(check, documents, pick=text_of, n_workers=n_workers)
        for document, overlaps in (pair for both in batches for pair in zip(*both, strict=True)):
            tally.add(document, overlaps, index.items)
            (overlapping if overlaps else clean).write(hash_text(document.text))
            if overlaps:
                row = describe_removed(document, overlaps, options.evaluations(), index)
                removed.write(to_line(row))
            else:
                files.write(document)
    return tally


def split_names(names: str) -> list[str]:
    """Split names at commas."""
    return [name.strip() for name in names.split(",") if name.strip()]


def describe_removed(
    document: Document, overlaps: Sequence[Overlap], files: Sequence[str], index: EvaluationIndex
) -> dict[str, object]:
    """Say why a document was removed."""
    items = [index.items[overlap.item] for overlap in overlaps]
    return {
        "removed": document.id,
        "source": document.source,
        "overlaps": [
            {
                "file": files[item.file],
                "item": item.name,
                "n_runs": overlap.n_runs,
                "words": overlap.words,
            }
            for item, overlap in zip(items, overlaps, strict=True)
        ],
    }


def describe_file(path: str, file: int, index: EvaluationIndex, tally: Tally) -> EvaluationCounts:
    """Sum up an evaluation file."""
    own = [(number, item) for number, item in enumerate(index.items) if item.file == file]
    uncheckable = [item.name for _, item in own if not item.passages]
    return EvaluationCounts(
        file=path,
        sha256=hash_file(Path(path)),
        n_items=len(own),
        n_uncheckable=len(uncheckable),
        uncheckable=tuple(uncheckable[:NAMED_ITEMS]),
        n_found=sum(number in tally.n_documents_by_item for number, _ in own),
        n_documents=tally.n_documents_by_file[file],
    )


def describe_items(files: Sequence[str], index: EvaluationIndex, tally: Tally) -> list[FoundItem]:
    """List the items that were found."""
    return [
        FoundItem(
            file=files[index.items[number].file],
            item=index.items[number].name,
            n_documents=tally.n_documents_by_item[number],
            n_runs=tally.n_runs_by_item[number],
            samples=tuple(tally.samples[number]),
        )
        for number in sorted(tally.n_documents_by_item)
    ]


def print_report(report: DecontaminateReport) -> None:
    """Print what was found of each evaluation file and in each source."""
    console = Console()
    table = Table(title="evaluation sets")
    for name in ("file", "items", "not checkable", "found", "documents"):
        table.add_column(name, justify="left" if name == "file" else "right")
    for entry in report.evaluations:
        counts = (entry.n_items, entry.n_uncheckable, entry.n_found, entry.n_documents)
        table.add_row(entry.file, *(f"{count:,}" for count in counts))
    console.print(table)
    table = Table(title="sources")
    for name in ("source", "documents", "MB", "removed", "removed MB"):
        table.add_column(name, justify="left" if name == "source" else "right")
    for counts in report.sources:
        table.add_row(
            counts.source,
            f"{counts.n_documents:,}",
            f"{counts.n_bytes / 1e6:.2f}",
            f"{counts.n_removed_documents:,}",
            f"{counts.n_removed_bytes / 1e6:.2f}",
        )
    console.print(table)


if __name__ == "__main__":
    run_program(run, DecontaminateOptions, sys.argv[1:])
