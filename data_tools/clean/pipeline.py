"""The pipeline of cleaning: files in, batches to the workers, files and a report out."""

import json
import multiprocessing
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data_tools.batches import estimate_bytes, show_documents
from data_tools.clean import CleanOptions
from data_tools.clean.filter import FilterSettings, Verdict, filter_batch
from data_tools.clean.report import Count, Report, Sample, SampleKeeper, SourceReport
from data_tools.documents import Document
from data_tools.readers.files import TextFile, find_files, parse_name, refuse_inputs_within
from helix.data import DataError

BATCH_CHARACTERS = 1_000_000  # a tenth of a second of work
MAX_BATCH_DOCUMENTS = 2_000
MIN_BYTES_FOR_PROCESSES = 20_000_000  # two seconds of work; a worker takes half a second to start
BATCHES_AHEAD = 3  # for each worker: bounds the memory
REPORT = "report.json"
DROPPED = "dropped.json"  # not .jsonl, for the folder of what was kept is the next step's input


def clean(options: CleanOptions) -> Report:
    """Clean the inputs into a folder, and print the report.

    Raises:
        DataError: An input cannot be read, lies in the folder to write, or a library is missing;
            or the folder holds files that `clean` did not write. What it holds stays as it is.
    """
    out = Path(options.out)
    files = find_files(options.inputs)
    check_folder(out, files)
    is_small = estimate_bytes(files) < MIN_BYTES_FOR_PROCESSES
    n_processes = options.n_processes or (1 if is_small else len(os.sched_getaffinity(0)))
    batches = make_batches(show_documents(options, "clean"))
    writer = Writer(out, options.n_samples)
    try:
        judged = judge_batches(batches, options.settings(), n_processes)
        for documents, verdicts in judged:
            writer.write(documents, verdicts)
        report = writer.finish(describe_options(options))
    finally:
        writer.remove_partials()
    print(report.to_json() if options.json else report.to_table())
    return report


def describe_options(options: CleanOptions) -> dict[str, Any]:
    """Give the options that decide what is kept."""
    settings = asdict(options.settings())
    named = {name: getattr(options, name) for name in ("field", "source", "licence", "n_samples")}
    return settings | named


def check_folder(out: Path, files: Sequence[TextFile]) -> None:
    """Refuse to read what will be replaced, or to mix with files of another origin."""
    refuse_inputs_within(out, files)
    if out.exists() and not out.is_dir():
        raise DataError(f"out={out}: is a file; give a folder")
    present = {file.name for file in out.glob("*") if parse_name(file)}
    if strangers := sorted(present - written_before(out)):
        raise DataError(
            f"out={out}: holds {strangers[0]}, which `clean` did not write and the next step would "
            "read with the rest; give another folder"
        )


def written_before(out: Path) -> set[str]:
    """Name the files that an earlier run wrote, by its report."""
    try:
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
        return set(report["files"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def make_batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Group documents into batches of about `BATCH_CHARACTERS`."""
    batch: list[Document] = []
    n_characters = 0
    for document in documents:
        batch.append(document)
        n_characters += len(document.text)
        if n_characters >= BATCH_CHARACTERS or len(batch) == MAX_BATCH_DOCUMENTS:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch


Judged = tuple[list[Document], list[Verdict]]


def judge_batches(
    batches: Iterable[list[Document]], settings: FilterSettings, n_processes: int
) -> Iterator[Judged]:
    """Yield each batch and the verdicts on it, in order."""
    if n_processes == 1:
        for batch in batches:
            yield batch, filter_batch(texts_of(batch), settings)
        return
    pending: deque[tuple[list[Document], Future[list[Verdict]]]] = deque()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_processes, mp_context=context) as pool:
        try:
            for batch in batches:
                pending.append((batch, pool.submit(filter_batch, texts_of(batch), settings)))
                if len(pending) > BATCHES_AHEAD * n_processes:
                    done, verdicts = pending.popleft()
                    yield done, verdicts.result()
            while pending:
                done, verdicts = pending.popleft()
                yield done, verdicts.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def texts_of(batch: Sequence[Document]) -> list[tuple[str, str]]:
    """Give what a worker needs of the documents."""
    return [(document.text, document.language) for document in batch]


class Writer:
    """Writes what is kept, counts all, and keeps samples of what is dropped.

    Files have temporary names until all of them are complete.
    """

    def __init__(self, out: Path, n_samples: int) -> None:
        self.out = out
        self.sources: dict[str, SourceReport] = {}
        self.files: dict[str, str] = {}  # by source, of those with documents kept
        self.samples = SampleKeeper(n_samples)

    def write(self, documents: Sequence[Document], verdicts: Sequence[Verdict]) -> None:
        """Write and count a batch."""
        lines: dict[str, list[str]] = {}
        for document, verdict in zip(documents, verdicts, strict=True):
            report = self.sources.setdefault(document.source, SourceReport())
            n_bytes = len(document.text.encode())
            report.read.add(n_bytes)
            report.count_changes(dict.fromkeys(verdict.changes, 1))
            if verdict.reason is None:
                kept = replace(document, text=verdict.text, language=verdict.language)
                report.kept.add(len(kept.text.encode()))
                line = json.dumps(asdict(kept), ensure_ascii=False) + "\n"
                lines.setdefault(document.source, []).append(line)
            else:
                report.dropped.setdefault(verdict.reason, Count()).add(n_bytes)
                self.samples.offer(
                    Sample(
                        source=document.source,
                        reason=verdict.reason,
                        id=document.id,
                        language=verdict.language,
                        text=verdict.text,
                    )
                )
        for source, written in lines.items():
            self.append(source, written)

    def append(self, source: str, lines: Sequence[str]) -> None:
        """Append lines to the file of a source; its first lines begin it anew."""
        is_new = source not in self.files
        if is_new:
            self.files[source] = self.name_file(source)
            self.out.mkdir(parents=True, exist_ok=True)
        partial = self.partial(self.files[source])
        with partial.open("w" if is_new else "a", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)

    def name_file(self, source: str) -> str:
        """Name the file of a source; no two may share one."""
        name = (re.sub(r"[^\w.-]+", "-", source).strip("-.") or "text") + ".jsonl"
        for other, taken in self.files.items():
            if taken.lower() == name.lower():
                raise DataError(
                    f"the sources {source!r} and {other!r} would both be written to {name}: rename "
                    "one of them"
                )
        return name

    def partial(self, name: str) -> Path:
        """Give the temporary name of a file."""
        return self.out / f".{name}.partial"

    def finish(self, options: dict[str, Any]) -> Report:
        """Give the files their names, the report last; remove what an earlier run wrote."""
        if not self.sources:
            raise DataError("no text given: name .txt or .jsonl files, or a folder of them")
        report = Report(options=options, files=self.files, sources=self.sources)
        self.out.mkdir(parents=True, exist_ok=True)
        samples = [
            json.dumps(asdict(sample), ensure_ascii=False) for sample in self.samples.samples()
        ]
        texts = {DROPPED: "[\n" + ",\n".join(samples) + "\n]\n", REPORT: report.to_json()}
        for name, text in texts.items():
            self.partial(name).write_text(text, encoding="utf-8", newline="\n")
        for name in written_before(self.out) - set(self.files.values()):
            (self.out / Path(name).name).unlink(missing_ok=True)
        for name in (*self.files.values(), DROPPED, REPORT):
            self.partial(name).replace(self.out / name)
        return report

    def remove_partials(self) -> None:
        """Remove what was not completed."""
        for name in (*self.files.values(), DROPPED, REPORT):
            self.partial(name).unlink(missing_ok=True)
