"""The pipeline of cleaning: files in, batches to the workers, files and a report out."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.batches import choose_workers, map_batches, show_documents, text_and_language
from data_tools.clean import CleanOptions
from data_tools.clean.filter import Verdict, filter_batch
from data_tools.clean.report import Count, Report, Sample, SampleKeeper, SourceReport
from data_tools.documents import Document
from data_tools.readers.files import TextFile, find_files, refuse_inputs_within
from data_tools.result_folder import new_folder, open_text, to_line
from helix.data import DataError

REPORT = "report.json"
DROPPED = "dropped.json"  # not .jsonl, for the folder of what was kept is the next step's input


def clean(options: CleanOptions) -> Report:
    """Clean the inputs into a folder, and print the report.

    Raises:
        DataError: An input cannot be read, lies in the folder to write, or a library is missing;
            or the folder holds files that `clean` did not write. What it holds stays as it is.
    """
    check_folder(Path(options.out), find_files(options.inputs))
    judge = partial(filter_batch, settings=options.settings())
    n_workers = choose_workers(options.inputs, options.n_processes)
    documents = show_documents(options, "clean")
    with new_folder(options.out, replace=True) as folder:
        writer = Writer(folder, options.n_samples)
        judged = map_batches(judge, documents, pick=text_and_language, n_workers=n_workers)
        for batch, verdicts in judged:
            writer.write(batch, verdicts)
        report = writer.finish(describe_options(options))
    print(report.to_json() if options.json else report.to_table())
    return report


def describe_options(options: CleanOptions) -> dict[str, Any]:
    """Give the options that decide what is kept."""
    settings = asdict(options.settings())
    named = {name: getattr(options, name) for name in ("field", "source", "licence", "n_samples")}
    return settings | named


def check_folder(out: Path, files: Sequence[TextFile]) -> None:
    """Refuse to replace what will be read, or files of another origin."""
    refuse_inputs_within(out, files)
    if out.exists() and not out.is_dir():
        raise DataError(f"out={out}: is a file; give a folder")
    present = {file.name for file in out.glob("*")}
    if strangers := sorted(present - written_before(out)):
        raise DataError(
            f"out={out}: holds {strangers[0]}, which `clean` did not write and would replace with "
            "the rest; give another folder"
        )


def written_before(out: Path) -> set[str]:
    """Name the files that an earlier run wrote, by its report."""
    try:
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
        return {*report["files"].values(), DROPPED, REPORT}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


class Writer:
    """Writes what is kept, counts all, and keeps samples of what is dropped."""

    def __init__(self, folder: Path, n_samples: int) -> None:
        self.folder = folder
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
                lines.setdefault(document.source, []).append(to_line(asdict(kept)))
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
            if source not in self.files:
                self.files[source] = self.name_file(source)
            with open_text(self.folder / self.files[source], mode="a") as file:
                file.writelines(written)

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

    def finish(self, options: dict[str, Any]) -> Report:
        """Write the samples and the report."""
        if not self.sources:
            raise DataError("no text given: name .txt or .jsonl files, or a folder of them")
        report = Report(options=options, files=self.files, sources=self.sources)
        samples = [
            json.dumps(asdict(sample), ensure_ascii=False) for sample in self.samples.samples()
        ]
        texts = {DROPPED: "[\n" + ",\n".join(samples) + "\n]\n", REPORT: report.to_json()}
        for name, text in texts.items():
            with open_text(self.folder / name) as file:
                file.write(text)
        return report
