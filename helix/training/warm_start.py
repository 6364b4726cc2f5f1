"""Warm start: a run that begins with the weights of another, under a schedule of its own.

Moments and data position are new. What the weights have learned is lost where the learning rate
rises far above the one that they were last trained with, so such a rise must be asked for.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from helix import config as configs
from helix import distributed
from helix.config import ConfigError, RunConfig
from helix.data.store import expand_home
from helix.training.checkpoint import (
    MANIFEST,
    CheckpointError,
    checkpoints_dir,
    is_intact,
    load_weights,
    newest,
    read_state,
    saved_steps,
)
from helix.training.engine import Engine
from helix.training.schedule import rate_ratio

MAX_RISE = 2.0  # of the peak over the last rate that the weights saw


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the weights are from.

    Attributes:
        path: The checkpoint.
        last_rate: Learning rate of the step before it; None where its run's config is not there.
    """

    path: Path
    step: int
    last_rate: float | None


def find_origin(config: RunConfig) -> Origin | None:
    """Find the checkpoint that a run begins from; None where it begins from nothing.

    A run that has a checkpoint of its own goes on from that, wherever its origin is by now.

    Raises:
        ConfigError: There is none, or the learning rate would rise too far.
        CheckpointError: There are some, and not one is intact.
    """
    name = config.training.warm_start
    if not name or saved_steps(checkpoints_dir(config.run_dir)):
        return None
    folder = expand_home(name).absolute()
    is_checkpoint = (folder / MANIFEST).exists()
    run_dir = folder.parent.parent if is_checkpoint else folder
    # Every byte is read and hashed, which one rank does for all.
    found = find_checkpoint(folder, is_named=is_checkpoint) if distributed.is_main() else ""
    path = Path(distributed.from_main(found))
    step = read_state(path).progress.step
    last_rate = None
    if configs.saved_path(run_dir).exists():
        theirs = configs.load_file(configs.saved_path(run_dir), config)
        ratio = rate_ratio(theirs.schedule, max(step - 1, 0), theirs.training.n_steps)
        last_rate = theirs.optimizer.learning_rate * ratio
    origin = Origin(path=path, step=step, last_rate=last_rate)
    refuse_rise(config, origin)
    return origin


def find_checkpoint(folder: Path, *, is_named: bool) -> str:
    """Find the checkpoint that a folder is, or a run folder's newest; see `find_origin`."""
    found = folder if is_named else newest(folder)
    if found is None:
        raise ConfigError(
            f"training.warm_start={folder}: neither a run folder with a checkpoint nor a "
            f"checkpoint; {checkpoints_dir(folder)} is empty or missing"
        )
    if is_named and not is_intact(found):
        raise CheckpointError(
            f"training.warm_start={found}: damaged; restore it from a copy, or name another"
        )
    return str(found)


def refuse_rise(config: RunConfig, origin: Origin) -> None:
    """Refuse a peak far above the last learning rate, unless the run asks for it."""
    peak, last = config.optimizer.learning_rate, origin.last_rate
    if last and peak / last > MAX_RISE and not config.training.allow_rewarm:
        raise ConfigError(
            f"optimizer.learning_rate={peak:g}: {peak / last:.3g} times the {last:.3g} that the "
            f"weights of {origin.path} were last trained with; give at most {MAX_RISE * last:.3g}, "
            "or training.allow_rewarm=true to lose some of what they learned"
        )


def begin_from(origin: Origin, engine: Engine, config: RunConfig) -> None:
    """Load the weights, and say what happens to the learning rate. All ranks call it together.

    Raises:
        CheckpointError: The checkpoint is of another model.
    """
    load_weights(engine, origin.path)
    if distributed.is_main():
        print(describe(origin, config), file=sys.stderr, flush=True)


def describe(origin: Origin, config: RunConfig) -> str:
    """Say in one line where the weights are from and how the learning rate goes on."""
    peak = config.optimizer.learning_rate
    first = peak * rate_ratio(config.schedule, 0, config.training.n_steps)
    last = "is not known" if origin.last_rate is None else f"was {origin.last_rate:.3g}"
    times = f", {peak / origin.last_rate:.3g} times that" if origin.last_rate else ""
    return (
        f"warm start from {origin.path} (step {origin.step}): its learning rate {last}; this run "
        f"begins at {first:.3g} and peaks at {peak:.3g}{times}; moments are new"
    )
