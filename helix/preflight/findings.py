"""What a check saw, on one rank and over all of them, and how bad it is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

Verdict = Literal["ok", "warning", "FAILED"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)  # from good to bad


class Seen(NamedTuple):
    """What was found, how bad that is and what to do about it; fit for JSON."""

    found: str
    verdict: Verdict = "ok"
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A line of the report.

    Attributes:
        seconds: How long the slowest rank looked.
    """

    name: str
    found: str
    verdict: Verdict
    advice: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What ranks brought back from one check, each fit for JSON, and which node each is on."""

    by_rank: Mapping[int, Any]
    hosts: Mapping[int, str]

    def name(self, ranks: Iterable[int]) -> str:
        """Call ranks by their numbers and nodes."""
        ranks = sorted(ranks)
        if len(ranks) == len(self.hosts) > 1:
            return "all ranks"
        nodes = dict.fromkeys(self.hosts.get(rank, "") for rank in ranks)
        where = f" ({', '.join(filter(None, nodes))})" if len(nodes) < 5 else ""
        return f"rank{'s' if len(ranks) > 1 else ''} {spans(ranks)}{where}"


def spans(numbers: Iterable[int]) -> str:
    """Write rising numbers with a dash for those that follow each other."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def worst(facts: Facts) -> Seen:
    """Take what the worst off rank saw, and name all that saw it, where others did not."""
    seen = {rank: Seen(*fields) for rank, fields in facts.by_rank.items()}
    verdict = max((each.verdict for each in seen.values()), key=VERDICTS.index)
    bad = {rank: each for rank, each in seen.items() if each.verdict == verdict}
    first = bad[min(bad)]
    alike = [rank for rank, each in bad.items() if each.found == first.found]
    if verdict == "ok" or len(alike) == len(facts.hosts):
        return first
    found = f"{facts.name(alike)}: {first.found}"
    others = bad.keys() - set(alike)
    return first._replace(
        found=f"{found}; {verdict} on {facts.name(others)}, too" if others else found
    )


def blame(line: str) -> Seen:
    """Read an error's line: what comes after its first semicolon is what to do."""
    found, _, advice = line.partition("; ")
    return Seen(found, "FAILED", advice or "mend that, and run the same command again")


def line_of(error: BaseException) -> str:
    """Put an error into one line."""
    told = " ".join(str(error).split())
    is_telling = isinstance(error, ValueError | OSError) and told  # ours, and the system's
    return told if is_telling else f"{type(error).__name__}: {told}"
