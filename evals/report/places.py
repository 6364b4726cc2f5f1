"""Places: what a measure's path says of it, whatever evaluation it is of.

A path is made of parts between slashes. The last one names the figure; of the others one may be a
language, one a length in tokens, and the figure or a part may name a hardness.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from evals.contract import Measure, Result
from evals.report.evidence import Reading, read

HARDNESSES = ("", "easy", "medium", "hard")  # "" is of all
SHARES = ("share", "different groups / groups", "texts that ended / texts")  # units from 0 to 1
LENGTH = re.compile(r"(\d+)(k?)$")
LANGUAGE = re.compile(r"[a-z]{2}$")


@dataclass(frozen=True, kw_only=True)
class Point:
    """A measure with what its path says.

    Attributes:
        what: The figure, without its hardness.
        where: The parts of the path that are neither language nor length nor hardness.
        language: Empty where it names none.
        length: In tokens; None where it names none.
        hardness: Empty where it names none.
    """

    path: str
    what: str
    where: str
    language: str
    length: int | None
    hardness: str
    reading: Reading


def read_points(result: Result) -> list[Point]:
    """Read all measures of a result."""
    return [read_point(path, measure) for path, measure in result.measures.items()]


def read_point(path: str, measure: Measure) -> Point:
    """Read one measure's path."""
    *parts, what = path.split("/")
    language = next((part for part in parts if LANGUAGE.match(part)), "")
    lengths = [(part, length_of(part)) for part in parts]
    length = next(((part, found) for part, found in lengths if found is not None), ("", None))
    hardness = next((h for h in HARDNESSES[1:] if h in parts or h in what.split("_")), "")
    left = [part for part in parts if part not in (language, length[0], hardness)]
    words = [word for word in what.split("_") if word != hardness]
    return Point(
        path=path,
        what=" ".join(words),
        where=" / ".join(left),
        language=language,
        length=length[1],
        hardness=hardness,
        reading=read(measure),
    )


def length_of(part: str) -> int | None:
    """Read a length in tokens: 512, 16k."""
    match = LENGTH.match(part)
    if not match:
        return None
    return int(match[1]) * (1024 if match[2] else 1)


def in_order(values: Iterable[str]) -> list[str]:
    """Give each value once, in the order of their first appearance."""
    return list(dict.fromkeys(values))


def by_hardness(points: Iterable[Point]) -> list[Point]:
    """Sort points from easy to hard, else as they come."""
    return sorted(points, key=lambda point: HARDNESSES.index(point.hardness))


def is_share(point: Point) -> bool:
    """Tell whether a figure is a share of all items, between 0 and 1."""
    return point.reading.unit in SHARES
