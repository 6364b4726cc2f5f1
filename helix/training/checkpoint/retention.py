"""Which checkpoints stay: the newest, every n-th for ever, the best by validation."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from helix.config import ConfigError
from helix.training.checkpoint.files import (
    LATEST,
    MANIFEST,
    CheckpointError,
    checkpoints_dir,
    read_manifest,
    saved_steps,
    step_of,
    sync,
)
from helix.training.checkpoint.reading import is_intact, newest, read_state


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What is kept when a checkpoint is added.

    Attributes:
        last: How many of the newest.
        every_steps: Those of each so many-th step stay for ever; 0 keeps none for that.
        best: How many of those with the fewest bits per byte.
    """

    last: int = 2
    every_steps: int = 0
    best: int = 0


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint that is there; its bytes are not looked at.

    Attributes:
        bits_per_byte: Mean over the sources; None where that step was not validated.
        is_latest: Whether the pointer names it.
    """

    path: Path
    step: int
    n_tokens: int
    n_bytes: int
    bits_per_byte: float | None
    is_latest: bool


def list_saved(run_dir: str | Path) -> list[Saved]:
    """List the checkpoints of a run by step; one without a readable manifest is none."""
    found = (_look_at(path) for path in saved_steps(checkpoints_dir(run_dir)).values())
    return [saved for saved in found if saved]


def _look_at(path: Path) -> Saved | None:
    if not (path / MANIFEST).exists():
        return None
    try:
        _, files = read_manifest(path)
        progress = read_state(path).progress
    except (OSError, ValueError):
        return None
    return Saved(
        path=path,
        step=step_of(path),
        n_tokens=progress.n_tokens,
        n_bytes=sum(about.n_bytes for about in files.values()),
        bits_per_byte=progress.bits_per_byte,
        is_latest=pointed_to(path.parent) == path.name,
    )


def by_score(saved: Sequence[Saved]) -> list[Saved]:
    """Sort those that have a score, the best first and of equals the newest."""
    scored = [(s.bits_per_byte, -s.step, s) for s in saved if s.bits_per_byte is not None]
    return [s for _, _, s in sorted(scored, key=lambda item: item[:2])]


def pointed_to(folder: Path) -> str:
    """Give the name that the pointer holds; empty without one."""
    try:
        return (folder / LATEST).read_text(encoding="utf-8", errors="replace")[:64].strip()
    except OSError:
        return ""


def point_to(path: Path) -> None:
    """Make a checkpoint the one that the pointer names."""
    pointer = path.parent / f".{LATEST}.partial"
    pointer.write_text(path.name, encoding="utf-8")
    sync(pointer)
    pointer.replace(path.parent / LATEST)
    sync(path.parent)


def prune(newest: Path, retention: Retention, *, incidents: Sequence[int] = ()) -> None:
    """Drop what need not stay once `newest`, which is whole, has been added.

    A later step that is there is damaged, or it would have been gone on from: it stays, and counts
    for nothing.

    Args:
        incidents: Steps that were skipped lately. With some more the run goes back to before the
            first of them.
    """
    folder = newest.parent
    steps = {n: path for n, path in saved_steps(folder).items() if n <= step_of(newest)}
    kept = {newest.name, pointed_to(folder)}
    before = [path.name for step, path in steps.items() if step < min(incidents, default=0)]
    kept |= set(before[-1:])
    kept |= {path.name for path in list(steps.values())[-retention.last :]}
    if retention.every_steps:
        kept |= {path.name for step, path in steps.items() if step % retention.every_steps == 0}
    if retention.best:
        saved = [found for path in steps.values() if (found := _look_at(path))]
        kept |= {found.path.name for found in by_score(saved)[: retention.best]}
    for path in steps.values():
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def find_intact(run_dir: str | Path, which: str = "latest") -> Path:
    """Find a checkpoint by name, as `choose` does, and hold it to its manifest.

    The latest that is damaged is passed over for the one before.

    Raises:
        ConfigError: The run has no checkpoint yet.
        CheckpointError: There is none of that name, or it is not intact.
    """
    found = newest(run_dir) if which == "latest" else choose(run_dir, which)
    if found is None:
        raise ConfigError(f"run_dir={run_dir}: has no checkpoint yet; train it first")
    if which != "latest" and not is_intact(found):
        raise CheckpointError(f"{found}: damaged; restore it from a copy, or give another step=")
    return found


def choose(run_dir: str | Path, which: str) -> Path:
    """Find a checkpoint by name: a step, best, or latest.

    Raises:
        CheckpointError: There is none of that name.
    """
    saved = list_saved(run_dir)
    scored = by_score(saved)
    if which == "best" and scored:
        return scored[0].path
    if which == "latest" and saved:
        return next((found for found in saved if found.is_latest), saved[-1]).path
    found = [s.path for s in saved if which.isdecimal() and s.step == int(which)]
    if found:
        return found[0]
    there = ", ".join(str(s.step) for s in saved) or "none"
    why = "no step that was validated is there" if which == "best" else "no such checkpoint"
    raise CheckpointError(
        f"step={which}: {why} in {run_dir}; give latest, best or one of the steps there: {there}"
    )
