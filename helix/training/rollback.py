"""Rollback: back to the last checkpoint before the incidents, and on in the data after them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helix import distributed
from helix.data import ReadAhead
from helix.training import checkpoint, incidents
from helix.training.checkpoint import Progress
from helix.training.checkpoint.retention import point_to
from helix.training.engine import Engine
from helix.training.guard import Guard, state_after_rollback
from helix.training.incidents import Rollback


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says what to do."""


def roll_back(
    run_dir: str | Path, engine: Engine, loader: ReadAhead, guard: Guard
) -> tuple[Progress, Rollback]:
    """Load the last intact checkpoint before the guard's incidents; the loader stays where it is.

    Nothing may be under way in a saver. All ranks call it together.

    Raises:
        TrainingError: There is no such checkpoint, or going back did not help before.
    """
    first, last = guard.incidents[0], guard.incidents[-1]
    what = f"step {last}: {len(guard.incidents)} of the last {guard.config.within_steps} skipped"
    if guard.n_in_a_row >= guard.config.max_rollbacks:
        raise TrainingError(
            f"{what}, after {guard.n_in_a_row} rollbacks that did not help; incidents.jsonl names "
            "the documents. Lower optimizer.learning_rate or training.clip_norm in a new run_dir, "
            "or raise guard.loss_score, guard.gradient_score or guard.max_rollbacks"
        )
    path = distributed.from_main(find_before(run_dir, first) if distributed.is_main() else "")
    if not path:
        raise TrainingError(
            f"{what}, and there is no checkpoint from before step {first} to go back to; lower "
            "optimizer.learning_rate or training.clip_norm and start again in a new run_dir, with "
            "training.checkpoint_every_steps set"
        )
    rollback = Rollback(
        number=guard.n_rollbacks + 1,
        n_in_a_row=guard.n_in_a_row + 1,
        step=last,
        to_step=checkpoint.read_state(Path(path)).progress.step,
        loader=loader.state_dict(),
    )
    if distributed.is_main():
        incidents.append_rollback(run_dir, rollback, skipped_steps=guard.incidents)
        point_to(Path(path))
        incidents.put_abandoned_aside(run_dir)
    distributed.barrier()
    engine.forget_moments()
    return end_rollback(checkpoint.load(engine, Path(path)), rollback), rollback


def find_before(run_dir: str | Path, step: int) -> str:
    """Find the newest intact checkpoint from before a step; empty if there is none."""
    saved = checkpoint.saved_steps(checkpoint.checkpoints_dir(run_dir))
    paths = [path for number, path in saved.items() if number < step]
    return next((str(path) for path in reversed(paths) if checkpoint.is_intact(path)), "")


def resume(run_dir: str | Path, engine: Engine, loader: ReadAhead) -> Progress:
    """Load the newest intact checkpoint, and end a rollback that a kill interrupted.

    Without a checkpoint the run begins at step 0. All ranks call it together.
    """
    found = None
    if distributed.is_main():
        incidents.put_abandoned_aside(run_dir)
        found = checkpoint.newest(run_dir)
        if found is None:
            incidents.start_afresh(run_dir)
    path = distributed.from_main(str(found) if found else "")
    if not path:
        return Progress()
    progress = checkpoint.load(engine, Path(path))
    pending = pending_after(run_dir, progress)
    if pending is not None:
        progress = end_rollback(progress, pending)
    loader.load_state_dict(progress.loader)
    return progress


def pending_after(run_dir: str | Path, progress: Progress) -> Rollback | None:
    """Find the rollback that a checkpoint does not know of, the same on every rank."""
    words = ""
    if distributed.is_main():
        known = int(progress.guard.get("n_rollbacks", 0))
        found = incidents.pending_rollback(run_dir, step=progress.step, n_rollbacks=known)
        words = json.dumps(asdict(found)) if found else ""
    words = distributed.from_main(words)
    return Rollback(**json.loads(words)) if words else None


def end_rollback(progress: Progress, rollback: Rollback) -> Progress:
    """Give a checkpoint's progress as the run goes on from it after a rollback."""
    n_rows = rollback.loader["n_rows_drawn"] - progress.loader["n_rows_drawn"]
    state: dict[str, Any] = state_after_rollback(
        progress.guard, rollback, step=progress.step, n_rows=n_rows
    )
    return Progress(
        step=progress.step, n_tokens=progress.n_tokens, loader=rollback.loader, guard=state
    )
