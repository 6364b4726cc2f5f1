"""Send a run's figures to wandb or TensorBoard, from wherever its folder can be read.

A login node with network sends what compute nodes without it have written; again and again, if
that is wanted: each line arrives once (helix/training/tracking.py). TensorBoard's files are
written anew each time, under <run_dir>/tensorboard.
"""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from helix.config import ConfigError, read_saved
from helix.presets import PRESETS
from helix.training.metrics import read_history, read_records
from helix.training.tracking import Line, WandbRun

Target = Literal["wandb", "tensorboard"]
Mode = Literal["online", "offline"]


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """Options of `helix sync`.

    Attributes:
        run_dir: Folder of the run.
        to: Where the figures go.
        mode: Of wandb; offline leaves files in the run folder for `wandb sync`.
        project: Of wandb; the run's own, where it is not given.
        json: Print what was sent for machines.
    """

    run_dir: str
    to: Target = "wandb"
    mode: Mode = "online"
    project: str = ""
    json: bool = False


def sync(options: SyncConfig) -> None:
    """Send a run's figures, and say how many.

    Raises:
        ConfigError: There is no run, it has no figures yet, or the package is missing.
    """
    config = read_saved(options.run_dir, PRESETS)
    lines = read_records(options.run_dir)
    if not lines:
        raise ConfigError(f"run_dir={options.run_dir}: has no figures yet")
    if options.to == "tensorboard":
        told = {"lines": len(lines), "to": str(write_tensorboard(options.run_dir, lines))}
    else:
        history = partial(read_history, options.run_dir)
        project = options.project or config.metrics.wandb_project
        run = WandbRun(config, history, mode=options.mode, project=project)
        run.close()
        told = {"lines": run.n_sent, "to": f"wandb {project}/{run.tracked.run_id}"}
    print(json.dumps(told) if options.json else f"sent {told['lines']} lines to {told['to']}")


def write_tensorboard(run_dir: str | Path, lines: Sequence[Line]) -> Path:
    """Write all figures as TensorBoard's event files; give their folder.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "to=tensorboard: TensorBoard is not installed; pip install -e '.[tensorboard]'"
        ) from error
    folder = Path(run_dir) / "tensorboard"
    partial_folder = folder.with_name(".tensorboard.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    with SummaryWriter(str(partial_folder)) as writer:
        for line in lines:
            for name, value in line.items():
                if name not in ("step", "attempt") and is_figure(value):
                    writer.add_scalar(name, value, int(line["step"]))
    shutil.rmtree(folder, ignore_errors=True)
    partial_folder.rename(folder)
    return folder


def is_figure(value: object) -> bool:
    """Tell a number from what JSON has beside it."""
    return isinstance(value, int | float) and math.isfinite(value)
