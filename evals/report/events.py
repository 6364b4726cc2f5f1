"""Events of a run beside its steps: what was skipped, gone back from, and started again."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from evals.report.series import number
from evals.report.words import figure, one_line
from helix.training import incidents
from helix.training.metrics import Record

Kind = Literal["warm start", "skipped", "rolled back", "started again"]
KINDS: tuple[Kind, ...] = ("warm start", "skipped", "rolled back", "started again")


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened at a step.

    Attributes:
        to_step: Where a rollback went back to.
        told: In words.
    """

    step: int
    kind: Kind
    told: str
    to_step: int | None = None


def find_events(run_dir: Path, steps: Sequence[Record], warm_start: str) -> list[Event]:
    """Find all events of a run, in the order of steps.

    Args:
        warm_start: Where its first weights are from; empty where they are new.
    """
    events = [tell_incident(entry) for entry in incidents.read(run_dir)]
    known = {event.step for event in events if event.kind == "skipped"}
    events += [
        Event(step=int(number(record, "step")), kind="skipped", told="skipped; its reason is lost")
        for record in steps
        if record.get("train/is_step_applied") == 0 and int(number(record, "step")) not in known
    ]
    for before, after in pairwise(steps):
        if number(after, "attempt") > number(before, "attempt"):
            told = f"start number {number(after, 'attempt') + 1:.0f} goes on here"
            step = int(number(after, "step"))
            events.append(Event(step=step, kind="started again", told=told))
    if warm_start:
        told = f"began with the weights of {one_line(warm_start)}"
        events.append(Event(step=0, kind="warm start", told=told))
    return sorted(events, key=lambda event: event.step)


def tell_incident(entry: dict[str, Any]) -> Event:
    """Tell of one entry of incidents.jsonl."""
    step = whole(entry.get("step"))
    if entry.get("kind") == incidents.ROLLBACK:
        to_step = whole(entry.get("to_step"))
        told = f"back to the weights of step {to_step:,}, and on in the data after step {step:,}"
        return Event(step=step, kind="rolled back", told=told, to_step=to_step)
    reason = one_line(entry.get("kind", "for a reason that is not told")).replace("_", " ")
    value = number(entry, "value")
    seen = f" ({figure(value, 3)})" if math.isfinite(value) else ""
    return Event(step=step, kind="skipped", told=f"skipped: {reason}{seen}{name_sources(entry)}")


def name_sources(entry: dict[str, Any]) -> str:
    """Say of which sources the documents of a skipped step are."""
    documents = entry.get("documents")
    if not isinstance(documents, list):
        return ""
    sources = Counter(str(named[0]) for named in documents if isinstance(named, list) and named)
    told = ", ".join(f"{n} of {one_line(name, most=24)}" for name, n in sources.most_common(3))
    return f"; documents: {told}" if told else ""


def whole(value: Any) -> int:
    """Read a step; 0 where there is none."""
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else 0


def count_events(events: Sequence[Event]) -> dict[Kind, int]:
    """Count events by kind, in the order of `KINDS`; kinds that did not happen are left out."""
    counts = Counter(event.kind for event in events)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}
