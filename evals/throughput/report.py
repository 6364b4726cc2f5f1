"""Runs sections row by row and shows what they measured, as tables and as JSON."""

import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from evals.contract import finite
from evals.throughput.bench import Bench, Case, Row, Section
from evals.throughput.processes import is_first, ranks_started
from helix import config as configs
from helix import doctor
from helix.config import ConfigError, first_line
from helix.training.flops import FORMULA, PEAK_SOURCE

WIDTH = 160  # of tables at the least: they have more columns than a narrow terminal
# What a person must mend and what a device is too small for is told in one line, without a trace.
PLAIN_ERRORS = (ConfigError, ImportError, torch.OutOfMemoryError)


class Report:
    """The figures so far. It is written to `out` after each row, so that a stop loses none."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.head = describe(bench) if is_first() else {}
        self.sections: dict[str, list[Row]] = {}

    def fill(self, name: str, section: Section) -> None:
        """Measure the rows of one section; one that fails holds the error and loses no other."""
        rows = self.sections[name] = []
        for case in self.guarded(name, section, rows):
            show_progress(name, case.labels)
            rows.append({**case.labels, **self.measure(case)})
            self.bench.free()
            self.write()
        if is_first():
            section.finish([row for row in rows if "error" not in row])
            self.write()

    def guarded(self, name: str, section: Section, rows: list[Row]) -> Iterator[Case]:
        """Give the cases of a section; what fails between two of them ends the section."""
        show_progress(name, {})
        self.bench.free()
        if self.bench.is_gpu:
            torch.compiler.reset()  # it compiles one function for no more than eight shapes
        try:
            yield from section.cases(self.bench)
        except Exception as error:
            rows.append({"error": self.explain(error)})

    def measure(self, case: Case) -> Row:
        """Measure one row, or give the error in its place."""
        try:
            return case.measure()
        except Exception as error:
            return {"error": self.explain(error)}

    def explain(self, error: Exception) -> str:
        """Put an error into one line. On several ranks it ends all, as the others wait for it."""
        if ranks_started() > 1:
            raise error
        if not isinstance(error, PLAIN_ERRORS):
            traceback.print_exception(error)
        return f"{type(error).__name__}: {first_line(error)}"

    def to_dict(self) -> dict[str, Any]:
        """Give all of it."""
        return {**self.head, "sections": self.sections, "failed": self.failed()}

    def failed(self) -> list[str]:
        """List the rows that were not measured, each with its error."""
        return [
            f"{' '.join([name, *described(row)])}: {row['error']}"
            for name, rows in self.sections.items()
            for row in rows
            if "error" in row
        ]

    def to_json(self) -> str:
        """Write all of it as JSON."""
        return json.dumps(finite(self.to_dict()), indent=1) + "\n"

    def write(self) -> None:
        """Write the file that was asked for."""
        if self.bench.options.out and is_first():
            configs.write_whole(Path(self.bench.options.out), self.to_json())

    def print(self, sections: Mapping[str, Section]) -> None:
        """Print tables for a person."""
        console = Console(width=max(Console().width, WIDTH))
        flops: dict[str, int] = self.head["flops"]["forward_per_token"]
        run = self.bench.run
        console.print(f"{run.preset} on {self.head['device']}, {run.training.precision}")
        console.print(f"{FORMULA}; {peak_text(self.bench.peak)}")
        table = Table("part", "forward FLOPs a token", "share", title="FLOPs")
        for part, count in flops.items():
            table.add_row(part, f"{count:,}", f"{count / sum(flops.values()):.1%}")
        console.print(table)
        for name, rows in self.sections.items():
            console.print(table_of(name, rows))
            console.print(sections[name].note)


def describe(bench: Bench) -> dict[str, Any]:
    """Say what is measured where, with what."""
    found = doctor.examine()
    run, n_context = bench.run, bench.run.data.n_context
    return {
        "device": found.device,
        "n_threads": found.n_threads,
        "versions": {**found.packages, "cuda": torch.version.cuda, "python": found.python},
        "kernels": {
            name: next(c.backend for c in rows if c.available)
            for name, rows in found.kernels.items()
        },
        "command": f"helix evaluate throughput {' '.join(sys.argv[3:])}".strip(),
        "settings": {"options": asdict(bench.options), "run": configs.to_dict(run)},
        "flops": {
            "formula": FORMULA,
            "peak_tflops": bench.peak,
            "peak_source": PEAK_SOURCE,
            "n_context": n_context,
            "forward_per_token": run.model.flops_by_part(n_context),
        },
    }


def peak_text(peak: float | None) -> str:
    """Say what utilisation is measured against."""
    return f"peak = {peak:g} TFLOP/s, {PEAK_SOURCE}" if peak else "no peak is known here"


def show_progress(name: str, labels: Row) -> None:
    """Tell on stderr what is being measured now."""
    if is_first():
        print("throughput:", name, *described(labels), file=sys.stderr, flush=True)


def described(labels: Row) -> list[str]:
    """Write what a row is of."""
    return [f"{key}={value}" for key, value in labels.items() if key != "error"]


def table_of(name: str, rows: Sequence[Row]) -> Table:
    """Make a table with a column for each figure that any row has; curves are left to the JSON."""
    columns = dict.fromkeys(
        key for row in rows for key, value in row.items() if not isinstance(value, list)
    )
    table = Table(*columns, title=name)
    for row in rows:
        table.add_row(*(as_cell(row.get(column, "")) for column in columns))
    return table


def as_cell(value: Any) -> str:
    """Write a figure for a person: four digits, and a dash where it is not known."""
    if not isinstance(value, float):
        return str(value)
    return "-" if value != value else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
