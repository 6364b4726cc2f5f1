"""Two results of one evaluation side by side, and whether their difference is more than chance.

Documents are drawn in pairs, so that hard documents are hard for both.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from evals.bits_per_byte import NAME, bootstrap, interval
from evals.contract import Result, read_result, refuse_other_sets
from helix.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What the second has over the first, in one part of the set.

    Attributes:
        interval_95: Of the difference.
        is_clear: Whether the interval leaves out zero.
    """

    part: str
    first: float
    second: float
    difference: float
    interval_95: tuple[float, float]
    is_clear: bool


def compare(first: Result, second: Result) -> list[Difference]:
    """Compare two results document by document.

    Raises:
        ConfigError: They are not of the same set, or of an evaluation that has no documents.
    """
    refuse_other_sets(first, second)
    if first.evaluation != NAME:
        raise ConfigError(f"{first.evaluation}: has no comparison yet")
    return [compare_part(part, first.figures[part], second.figures[part]) for part in first.figures]


def compare_part(part: str, first: dict[str, Any], second: dict[str, Any]) -> Difference:
    """Compare one source's documents in pairs."""
    n_bytes = np.array(first["documents"]["n_bytes"])
    ours, theirs = (np.array(own["documents"]["nats"]) for own in (first, second))
    low, high = interval(bootstrap(theirs - ours, n_bytes))
    return Difference(
        part=part,
        first=first["bits_per_byte"],
        second=second["bits_per_byte"],
        difference=second["bits_per_byte"] - first["bits_per_byte"],
        interval_95=(low, high),
        is_clear=not low <= 0 <= high,
    )


def print_comparison(paths: list[str], *, is_json: bool) -> list[Difference]:
    """Read two results, compare them and print the differences.

    Raises:
        ConfigError: There are not two files, or they cannot be compared.
    """
    if len(paths) != 2:
        raise ConfigError("evaluate compare: give two results, as in compare a.json b.json")
    first, second = map(read_result, paths)
    found = compare(first, second)
    if is_json:
        print(json.dumps([vars(own) for own in found], indent=1))
        return found
    table = Table(title=f"{first.evaluation}: {paths[0]} and {paths[1]}")
    for name in ("part", "first", "second", "difference", "95%", ""):
        table.add_column(name, justify="left" if name in ("part", "") else "right")
    for own in found:
        low, high = own.interval_95
        verdict = "clear" if own.is_clear else "may be chance"
        table.add_row(
            own.part,
            f"{own.first:.4f}",
            f"{own.second:.4f}",
            f"{own.difference:+.4f}",
            f"{low:+.4f} to {high:+.4f}",
            verdict,
        )
    Console().print(table)
    return found
