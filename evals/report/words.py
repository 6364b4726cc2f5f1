"""Words: how the report writes figures, times, names and commands."""

import math
import re
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime

from evals.contract import shorten

UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
NOTHING = "\N{EN DASH}"
SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def name_apart(names: Sequence[str]) -> list[str]:
    """Number those names that are not the only ones of their kind, by their places."""
    return [
        name if names.count(name) == 1 else f"{name} ({number})"
        for number, name in enumerate(names, start=1)
    ]


def plain(text: object) -> str:
    """Give text that XML can hold: what is no character there becomes a replacement character."""
    return UNPRINTABLE.sub("\ufffd", str(text))


def one_line(text: object, *, most: int = 60) -> str:
    """Give a name for a label: one line, and cut where it is too long."""
    line = " ".join(plain(text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def figure(value: float, digits: int = 4) -> str:
    """Write a figure with so many significant digits; a dash where there is none."""
    if not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -4:
        return f"{value:.{digits - 1}e}".replace("e-0", "e-")
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}"


def count(value: float) -> str:
    """Write a whole number."""
    return f"{value:,.0f}" if math.isfinite(value) else NOTHING


def scaled(value: float) -> str:
    """Write a large number as a person says it: 1.71 M."""
    for scale, letter in SCALES:
        if abs(value) >= scale:
            return f"{value / scale:.3g}\N{NO-BREAK SPACE}{letter}"
    return f"{value:.3g}"


def share(value: float, digits: int = 1) -> str:
    """Write a share in percent."""
    return f"{100 * value:.{digits}f}%" if math.isfinite(value) else NOTHING


def decimals(low: float, high: float) -> int:
    """Say how many decimals an interval is worth: two digits of its width."""
    width = high - low
    if not (math.isfinite(width) and width > 0):
        return 3
    return min(max(1 - math.floor(math.log10(width)), 0), 5)


def fixed(value: float, n_decimals: int) -> str:
    """Write a figure with so many decimals; a dash where there is none."""
    return f"{value:,.{n_decimals}f}" if math.isfinite(value) else NOTHING


def span(low: float, high: float) -> str:
    """Write an interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NOTHING
    n_decimals = decimals(low, high)
    return f"{fixed(low, n_decimals)} to {fixed(high, n_decimals)}"


def moment(unix_s: float) -> str:
    """Write a time, in UTC."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def digest(whole: str | None) -> str:
    """Write a hash as a person compares it."""
    return shorten(whole) if whole else NOTHING


def several(n_things: int, noun: str) -> str:
    """Write a number of things: 1 step, 2 steps."""
    return f"{n_things:,} {noun}{'' if n_things == 1 else 's'}"


def command(*parts: str) -> str:
    """Write a command that a shell reads as it is meant, whatever a folder is called."""
    return " ".join(shlex.quote(plain(part)) for part in parts)


def anchor_of(text: str) -> str:
    """Make an anchor of a name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"
