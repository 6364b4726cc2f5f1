"""Gather: all that a run's folder says of it. Only metrics.jsonl must be there."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.report.events import Event, find_events
from evals.report.series import number
from evals.report.words import one_line
from helix.config import ConfigError, RunConfig, read_saved, saved_path
from helix.data import DataError
from helix.data.files import hash_file
from helix.data.manifest import Manifest
from helix.data.store import expand_home
from helix.presets import PRESETS
from helix.training import attempts
from helix.training.checkpoint import CheckpointError, Saved, list_saved, read_state
from helix.training.checkpoint.files import MANIFEST
from helix.training.metrics import Record, metrics_path, read_records

LOSS = "train/loss_nats_per_token"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The newest checkpoint of a run.

    Attributes:
        digest: SHA-256 of its manifest, as results of evaluations name it.
        loader: Where in the data it stands: the loader's state_dict.
    """

    step: int
    digest: str
    loader: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run's folder holds.

    Attributes:
        config: None where there is none that this helix reads.
        config_text: config.yaml as it stands; empty without one.
        engine_text: deepspeed.json as it stands; empty without one.
        attempts: With what each attempt was made, as it says.
        steps: Figures of each step.
        validations: Figures of each look at held-out text.
        saves: What checkpoints cost.
        checkpoints: Digest of each checkpoint that is there, to its step.
        dataset: The manifest of what it was trained on; None where it cannot be read.
        summary: What `helix demo` wrote of it.
        changed_unix_s: When the last figure was written.
        problems: What could not be read, by what it is.
    """

    run_dir: str
    config: RunConfig | None
    config_text: str
    engine_text: str
    attempts: list[dict[str, Any]]
    steps: list[Record]
    validations: list[Record]
    saves: list[Record]
    events: list[Event]
    checkpoint: Checkpoint | None
    checkpoints: dict[str, int]
    dataset: Manifest | None
    summary: dict[str, Any]
    changed_unix_s: float
    problems: dict[str, str]

    @property
    def name(self) -> str:
        """What a person calls the run: its folder's name."""
        return one_line(Path(self.run_dir).resolve().name or self.run_dir)

    @property
    def n_steps_planned(self) -> int | None:
        """Steps of the whole run, where its config is there."""
        return self.config.training.n_steps if self.config else None

    @property
    def last_step(self) -> int:
        """The last step that wrote a figure."""
        return int(number(self.steps[-1], "step")) if self.steps else 0

    @property
    def n_tokens(self) -> float:
        """Targets trained on."""
        return number(self.steps[-1], "tokens") if self.steps else math.nan

    @property
    def n_parameters(self) -> int | None:
        """Parameters of the model, where its config is there."""
        return sum(self.config.model.parameters_by_part().values()) if self.config else None


def gather(run_dir: str) -> Run:
    """Read a run's folder.

    Raises:
        ConfigError: It holds no run.
    """
    if not metrics_path(run_dir).is_file():
        raise ConfigError(f"run_dir={run_dir}: holds no run (no metrics.jsonl); train one there")
    folder, problems = Path(run_dir), dict[str, str]()
    records = read_records(run_dir)
    steps = [record for record in records if LOSS in record]
    config = read_config(run_dir, problems)
    saved = list_saved(run_dir)
    return Run(
        run_dir=run_dir,
        config=config,
        config_text=read_text(saved_path(run_dir)),
        engine_text=read_text(folder / "deepspeed.json"),
        attempts=attempts.read(run_dir),
        steps=steps,
        validations=[r for r in records if any(name.startswith("validation/") for name in r)],
        saves=[record for record in records if "checkpoint/write_s" in record],
        events=find_events(folder, steps, config.training.warm_start if config else ""),
        checkpoint=read_checkpoint(saved, problems),
        checkpoints={hash_file(own.path / MANIFEST): own.step for own in saved},
        dataset=read_dataset(folder, config, problems),
        summary=read_summary(folder),
        changed_unix_s=metrics_path(run_dir).stat().st_mtime,
        problems=problems,
    )


def read_config(run_dir: str, problems: dict[str, str]) -> RunConfig | None:
    """Read a run's config; note why that is not possible."""
    try:
        return read_saved(run_dir, PRESETS)
    except ConfigError as error:
        problems["config"] = one_line(error, most=300)
        return None


def read_checkpoint(saved: list[Saved], problems: dict[str, str]) -> Checkpoint | None:
    """Read the newest checkpoint's state, not its weights."""
    if not saved:
        problems["checkpoint"] = "the folder holds no checkpoint"
        return None
    newest = saved[-1]
    try:
        loader = read_state(newest.path).progress.loader
    except (CheckpointError, OSError) as error:
        problems["checkpoint"] = one_line(error, most=300)
        return None
    return Checkpoint(step=newest.step, digest=hash_file(newest.path / MANIFEST), loader=loader)


def read_dataset(
    folder: Path, config: RunConfig | None, problems: dict[str, str]
) -> Manifest | None:
    """Read the manifest of a run's data, where its config says, or in the run's own folder."""
    named = expand_home(config.data.path) if config and config.data.path else folder / "data"
    tried = [named, folder / "data"]  # a run's folder may have been copied with its data
    path = next((path for path in tried if (path / "manifest.json").is_file()), named)
    try:
        return Manifest.read(path)
    except (DataError, OSError) as error:
        problems["dataset"] = one_line(error, most=300)
        return None


def read_summary(folder: Path) -> dict[str, Any]:
    """Read what the demo wrote of its run; nothing where it is no demo's."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def read_text(file: Path) -> str:
    """Read a file as it stands; empty where it is missing."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
