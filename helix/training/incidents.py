"""incidents.jsonl: the steps that were skipped, with their documents, and the rollbacks.

A rollback is written here before anything else changes. Checkpoints that lie after the one that
was gone back to, and do not know of the rollback, are put aside as abandoned-step-*; a run that
was killed in between finds the rollback here when it goes on, and ends it.
"""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helix.training.checkpoint.files import checkpoints_dir, saved_steps
from helix.training.lines import append_line, read_lines

ROLLBACK = "rollback"


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """A return to a checkpoint, with the data that went wrong passed over.

    Attributes:
        number: Of the rollbacks of this run, from 1.
        n_in_a_row: Of those without progress in between.
        step: The last one of the stretch that was given up.
        to_step: The checkpoint's.
        loader: Where in the data the run goes on: the loader's state_dict.
    """

    number: int
    n_in_a_row: int
    step: int
    to_step: int
    loader: dict[str, Any]


def incidents_path(run_dir: str | Path) -> Path:
    """Say where a run folder keeps its incidents."""
    return Path(run_dir) / "incidents.jsonl"


def append(run_dir: str | Path, entry: dict[str, Any]) -> None:
    """Add an entry; it is on the disk when this returns."""
    append_line(incidents_path(run_dir), {"time_unix_s": round(time.time(), 3), **entry})


def append_rollback(run_dir: str | Path, rollback: Rollback, **told: Any) -> None:
    """Add a rollback, with what else a person wants to know of it."""
    append(run_dir, {"kind": ROLLBACK, **asdict(rollback), **told})


def read(run_dir: str | Path) -> list[dict[str, Any]]:
    """Read all entries; a line torn by a kill is left out."""
    return list(read_lines(incidents_path(run_dir)))


def read_rollbacks(run_dir: str | Path) -> list[Rollback]:
    """Read the rollbacks in their order."""
    names = Rollback.__dataclass_fields__
    return [
        Rollback(**{name: entry[name] for name in names})
        for entry in read(run_dir)
        if entry.get("kind") == ROLLBACK and names.keys() <= entry.keys()
    ]


def pending_rollback(run_dir: str | Path, *, step: int, n_rollbacks: int) -> Rollback | None:
    """Find the last rollback that a checkpoint does not know of, and that a kill interrupted.

    Args:
        step: The checkpoint's.
        n_rollbacks: How many it knows of.
    """
    found = [r for r in read_rollbacks(run_dir) if r.number > n_rollbacks and step <= r.to_step]
    return found[-1] if found else None


def given_up(run_dir: str | Path) -> list[Path]:
    """List the checkpoints that lie after one that was gone back to, and do not know of it."""
    rollbacks = read_rollbacks(run_dir)
    return [
        path
        for path, step, n_rollbacks in _known_rollbacks(checkpoints_dir(run_dir))
        if any(r.number > n_rollbacks and step > r.to_step for r in rollbacks)
    ]


def put_abandoned_aside(run_dir: str | Path) -> None:
    """Put those checkpoints aside that a rollback gave up; the ones put aside before go."""
    paths = given_up(run_dir)
    for old in checkpoints_dir(run_dir).glob("abandoned-*") if paths else ():
        shutil.rmtree(old, ignore_errors=True)
    for path in sorted(paths, reverse=True):
        path.rename(path.with_name(f"abandoned-{path.name}"))
        print(f"helix: {path.name}: given up by a rollback; put aside", file=sys.stderr)


def start_afresh(run_dir: str | Path) -> None:
    """Put the log aside where a run begins anew in its folder, without any checkpoint."""
    path = incidents_path(run_dir)
    if path.exists():
        number = 1 + len(list(path.parent.glob("incidents-*.jsonl")))
        path.rename(path.with_name(f"incidents-{number}.jsonl"))


def rows_passed_over(jumps: list[list[int]], step: int) -> int:
    """Count the rows of data that were passed over before the one that follows `step`."""
    return sum(n_rows for after_step, n_rows in jumps if after_step <= step)


def _known_rollbacks(folder: Path) -> Iterator[tuple[Path, int, int]]:
    for step, path in saved_steps(folder).items():
        try:
            state = json.loads((path / "state.json").read_bytes())
            yield path, step, int(state.get("guard", {}).get("n_rollbacks", 0))
        except (OSError, ValueError, AttributeError, TypeError):
            continue  # damaged: nobody goes on from it
