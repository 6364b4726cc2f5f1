"""Evidence: the results of evaluations that a report is made of, and whose they are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from evals.contract import LEAST_ITEMS, Measure, OtherFiguresError, Result, read_results
from evals.report.gather import Run
from evals.report.words import decimals, fixed, name_apart, one_line
from helix.config import ConfigError

FOLDER = "evaluations"  # in a run's folder


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A measure as it is shown.

    Attributes:
        low: Of the interval of 95%; NaN where there is none.
        n_items: Documents or questions behind it; 0 where the run itself took it, without items.
    """

    value: float
    low: float
    high: float
    unit: str
    is_lower_better: bool
    n_items: int

    def __str__(self) -> str:
        """Write the value with as many decimals as its interval is worth."""
        return fixed(self.value, decimals(self.low, self.high))

    @property
    def worse_end(self) -> float:
        """The end of the interval that a cautious reader goes by; NaN of too few items for one.

        The value, where the run itself took it.
        """
        if self.n_items == 0:
            return self.value
        return self.high if self.is_lower_better else self.low


@dataclass(frozen=True)
class Evidence:
    """Results, parted by whose they are.

    Attributes:
        own: Evaluation to the result of the run's newest checkpoint.
        older: Those of the run's checkpoints before, or with other kernels or precision.
        others: Results of other models, the controls.
        passed_over: Files beside them that hold no results but figures of throughput.
    """

    own: dict[str, Result] = field(default_factory=dict)
    older: list[Result] = field(default_factory=list)
    others: list[Result] = field(default_factory=list)
    passed_over: list[Path] = field(default_factory=list)

    def others_of(self, evaluation: str) -> dict[str, Result]:
        """Give the controls of an evaluation by names that are told apart."""
        own = [result for result in self.others if result.evaluation == evaluation]
        return dict(zip(name_apart([name_of(result) for result in own]), own, strict=True))


def collect(run: Run, results: str) -> Evidence:
    """Read the results that belong to a report.

    Args:
        results: File or folder; the run's own folder of evaluations where it is empty.

    Raises:
        ConfigError: There is no such file or folder, or a file holds no results.
    """
    read: list[Result] = []
    passed_over: list[Path] = []
    for file in list_files(run, results):
        try:
            read += read_results(file)
        except OtherFiguresError:
            passed_over.append(file)
    found = unique(read)
    own = sorted((result for result in found if is_of(run, result)), key=partial(rank, run))
    newest = {result.evaluation: result for result in own}
    return Evidence(
        own=newest,
        older=[result for result in own if newest[result.evaluation] is not result],
        others=[result for result in found if not is_of(run, result)],
        passed_over=passed_over,
    )


def list_files(run: Run, results: str) -> list[Path]:
    """List the files of results, by name."""
    path = Path(results) if results else Path(run.run_dir) / FOLDER
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(path.glob("*.json"))
    if results:
        raise ConfigError(f"results={results}: no such file or folder; helix evaluate makes one")
    return []


def unique(results: Iterable[Result]) -> list[Result]:
    """Keep one of equal results: a suite's file may stand beside those of its parts."""
    kept: list[Result] = []
    for result in results:
        if result not in kept:
            kept.append(result)
    return kept


def is_of(run: Run, result: Result) -> bool:
    """Tell whether a result is of one of the run's checkpoints, the ones gone by now included."""
    if result.subject.checkpoint in run.checkpoints:
        return True
    return Path(result.subject.name).resolve() == Path(run.run_dir).resolve()


def rank(run: Run, result: Result) -> tuple[bool, int, bool, bool]:
    """Order results of one run; the last of an evaluation is the one that is shown.

    One of a checkpoint that is there comes after all that are told to be the run's by its folder's
    name alone: another run may have been in it.
    """
    subject = result.subject
    is_plain = not subject.backends or set(subject.backends.values()) != {"reference"}
    return (
        subject.checkpoint in run.checkpoints,
        -1 if subject.step is None else subject.step,
        is_plain,
        subject.precision == "fp32",
    )


def read(measure: Measure) -> Reading:
    """Take a measure's value and interval."""
    low, high = interval_of(measure)
    return Reading(
        value=measure.value,
        low=low,
        high=high,
        unit=measure.unit,
        is_lower_better=measure.is_lower_better,
        n_items=len(measure.numerators),
    )


def interval_of(measure: Measure) -> tuple[float, float]:
    """Give a measure's interval; none of few items, or where a draw has nothing to divide by."""
    if len(measure.numerators) < LEAST_ITEMS:
        return math.nan, math.nan
    with np.errstate(all="ignore"):
        low, high = measure.interval_95
    return low, high


def name_of(result: Result) -> str:
    """Name what was evaluated in a few words."""
    subject = result.subject
    name = one_line(Path(subject.name).name or subject.name, most=40)
    return name if subject.step is None else f"{name}, step {subject.step:,}"


def split_path(name: str) -> tuple[str, str]:
    """Part a measure's path into what it is of and what it is: "de" and "bits_per_byte"."""
    head, _, tail = name.rpartition("/")
    return head, tail


@lru_cache
def set_of(name: str, parts: frozenset[str]) -> str | None:
    """Find the part of the set that a measure is of: the longest that its path lies in.

    None where it is of all parts, as a measure of a language is of all its sources.
    """
    name = name.removeprefix("source/")
    found = [part for part in parts if lies_in(name.split("/"), part.split("/"))]
    return max(found, key=len, default=None)


def lies_in(path: list[str], part: list[str]) -> bool:
    """Tell whether a path begins as a part does, and names the rest of it in its order.

    "recall/whole/512/accuracy" lies in "recall/512".
    """
    left = iter(path)
    return path[0] == part[0] and all(own in left for own in part)


def shares_set(ours: Result, theirs: Result, name: str) -> bool:
    """Tell whether a measure of two results is of one set, taken with one setting."""
    if ours.settings != theirs.settings:
        return False
    part = set_of(name, frozenset(ours.sets))
    if part is None:
        return ours.sets == theirs.sets
    return ours.sets[part] == theirs.sets.get(part)
