"""Two results of one evaluation side by side, and whether their difference is more than chance.

Items are drawn in pairs, so that a hard document is hard for both.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from evals.contract import (
    LEAST_ITEMS,
    Measure,
    Result,
    bootstrap,
    finite,
    interval,
    read_results,
    refuse_other_sets,
)
from helix.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of `helix evaluate compare A.json B.json`.

    Attributes:
        json: Print JSON instead of tables.
    """

    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What the second has over the first, in one measure.

    Attributes:
        interval_95: Of the difference.
        n_items: That were paired.
        is_clear: Whether the interval leaves out zero, and the items suffice for one.
        is_better: Whether the second is the better one, clear or not.
    """

    evaluation: str
    measure: str
    unit: str
    first: float
    second: float
    difference: float
    interval_95: tuple[float, float]
    n_items: int
    is_clear: bool
    is_better: bool


def compare(first: Result, second: Result) -> list[Difference]:
    """Compare two results measure by measure.

    Raises:
        ConfigError: They are not of the same set.
    """
    refuse_other_sets(first, second)
    return [
        compare_measure(first.evaluation, name, first.measures[name], second.measures[name])
        for name in first.measures
        if name in second.measures
    ]


def compare_measure(evaluation: str, name: str, first: Measure, second: Measure) -> Difference:
    """Compare one measure, its items drawn in pairs."""
    if len(first.numerators) != len(second.numerators):
        raise ConfigError(
            f"{evaluation}, {name}: {len(first.numerators)} and {len(second.numerators)} items: "
            "evaluate both with one version of helix"
        )
    ours, theirs = (
        bootstrap(np.array(own.numerators), np.array(own.denominators)) for own in (first, second)
    )
    low, high = interval(theirs - ours)
    difference = second.value - first.value
    return Difference(
        evaluation=evaluation,
        measure=name,
        unit=first.unit,
        first=first.value,
        second=second.value,
        difference=difference,
        interval_95=(low, high),
        n_items=len(first.numerators),
        is_clear=len(first.numerators) >= LEAST_ITEMS and (low > 0 or high < 0),
        is_better=difference < 0 if first.is_lower_better else difference > 0,
    )


def compare_files(paths: Sequence[str]) -> list[Difference]:
    """Compare the evaluations that two files have in common.

    Raises:
        ConfigError: There are not two files, they have no evaluation in common, or one of them is
            not of the same set.
    """
    if len(paths) != 2:
        raise ConfigError("evaluate compare: give two results, as in compare a.json b.json")
    first, second = ({r.evaluation: r for r in read_results(path)} for path in paths)
    shared = [name for name in first if name in second]
    if not shared:
        raise ConfigError(
            f"{paths[0]} has {', '.join(first)} and {paths[1]} has {', '.join(second)}: no "
            "evaluation in common"
        )
    return [found for name in shared for found in compare(first[name], second[name])]


def print_comparison(paths: Sequence[str], *, is_json: bool) -> None:
    """Read two files of results, compare them and print the differences; see compare_files."""
    found = compare_files(paths)
    if is_json:
        print(json.dumps(finite([asdict(own) for own in found]), indent=1))
        return
    console = Console()
    for evaluation, own in groupby(found, key=lambda difference: difference.evaluation):
        console.print(draw(f"{evaluation}: {paths[0]} and {paths[1]}", own))


def draw(title: str, found: Iterable[Difference]) -> Table:
    """Lay the differences of one evaluation out for a terminal."""
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for name in ("first", "second", "diff", "+-95%"):
        table.add_column(name, justify="right", min_width=7)
    table.add_column("verdict", min_width=len("too few items"))
    for own in found:
        low, high = own.interval_95
        table.add_row(
            own.measure,
            f"{own.first:.4f}",
            f"{own.second:.4f}",
            f"{own.difference:+.4f}",
            f"{(high - low) / 2:.4f}",
            judge(own),
        )
    return table


def judge(own: Difference) -> str:
    """Say in words what a difference means."""
    if not math.isfinite(own.difference):
        return "no number"
    if own.n_items < LEAST_ITEMS:
        return "too few items"
    if own.difference == 0 and own.interval_95 == (0, 0):
        return "the same"
    if not own.is_clear:
        return "may be chance"
    return "better" if own.is_better else "worse"
