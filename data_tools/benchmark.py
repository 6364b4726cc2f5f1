"""How fast the data tools are, beside webdataset and datatrove on the same text in the same run.

    python -m data_tools.benchmark [a.de.txt b.en.jsonl] [tokenizer=FILE.model] [out=FILE.json]

Without files, the demo's texts. One process, CPU seconds, medians (cleaning: the best). What is
compared is told in data_tools/read_benchmark.py and data_tools/clean/benchmark.py; cleaning needs
pip install -e '.[data]' datatrove spacy xxhash, and is left out, saying so, without them.
"""

import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from data_tools.clean.benchmark import Measurement, choose_documents, compare
from data_tools.clean.report import lay_out
from data_tools.documents import Document, read_documents
from data_tools.fetch import demo_documents
from data_tools.options import run_program
from data_tools.read_benchmark import Reading, compare_reading
from helix.data import DataError
from helix.tokenizer import load_named


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Options of the benchmark.

    Attributes:
        inputs: Text in German or English; none stands for the demo's.
        tokenizer: .model file, or "byte".
        megabytes: Text to clean, spread over the inputs.
        n_repeats: Times that each is measured.
        out: JSON file to write the figures to.
        json: Print the figures as JSON.
    """

    inputs: tuple[str, ...] = ()
    tokenizer: str = "byte"
    megabytes: float = 5.0
    n_repeats: int = 3
    out: str = ""
    json: bool = False

    def __post_init__(self) -> None:
        if self.megabytes <= 0:
            raise ValueError(f"megabytes={self.megabytes}: give more than 0")
        if self.n_repeats < 1:
            raise ValueError(f"n_repeats={self.n_repeats}: give at least 1")


def run(options: BenchmarkOptions) -> dict[str, object]:
    """Measure, and print tables."""
    tokenizer = load_named(options.tokenizer)
    documents = read_documents(options.inputs) if options.inputs else demo_documents()
    with tempfile.TemporaryDirectory() as folder:
        readings = compare_reading(documents, tokenizer, Path(folder), n_repeats=options.n_repeats)
    cleaning, missing = clean(documents, options)
    figures: dict[str, object] = {
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "n_documents": len(documents),
        "n_bytes": sum(len(document.text.encode()) for document in documents),
        "n_vocab": tokenizer.n_vocab,
        "reading": [asdict(reading) for reading in readings],
        "cleaning": [asdict(measurement) for measurement in cleaning],
        "left_out": missing,
    }
    text = json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
    if options.out:
        Path(options.out).write_text(text, encoding="utf-8")
    print(text if options.json else draw_tables(readings, cleaning, missing))
    return figures


def clean(
    documents: list[Document], options: BenchmarkOptions
) -> tuple[list[Measurement], list[str]]:
    """Measure cleaning; where a package is missing, tell which."""
    try:
        chosen = choose_documents(documents, options.megabytes)
        return compare(chosen, n_repeats=options.n_repeats), []
    except DataError as error:
        return [], [str(error)]


def draw_tables(readings: list[Reading], cleaning: list[Measurement], missing: list[str]) -> str:
    """Lay the figures out for a person."""
    rows = [("reading", "MB/s of ids", "M ids/s", "resume s")] + [
        (
            reading.name,
            f"{reading.megabytes_per_s:.0f}",
            f"{reading.mega_tokens_per_s:.1f}",
            f"{reading.resume_s:.3f}",
        )
        for reading in readings
    ]
    tables = [lay_out(rows, n_left=1)]
    if cleaning:
        head = ("cleaning", "MB/s a core", "kept", "agree with ours")
        tables.append(
            lay_out(
                [head]
                + [
                    (
                        own.name,
                        f"{own.megabytes_per_s:.2f}",
                        f"{own.kept_share:.1%}",
                        f"{own.agreement_share:.1%}",
                    )
                    for own in cleaning
                ],
                n_left=1,
            )
        )
    return "\n\n".join([*tables, *missing])


if __name__ == "__main__":
    run_program(run, BenchmarkOptions, sys.argv[1:])
