"""A run in wandb: one continuous run, however often it was stopped.

    <run_dir>/tracking.json   the id of the run there, and what it has been sent

wandb takes steps in order and changes none that it has. A resumed run repeats steps with equal
figures, which are not sent again. After a rollback steps have other figures than those that were
sent: then a new version of the run begins, with the whole history.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from helix.config import ConfigError, RunConfig, first_line, to_dict, write_whole

Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """What wandb has of a run.

    Attributes:
        id: Of the run there; drawn once for a run folder.
        version: Histories that were begun; more than 1 after a rollback.
        n_lines: Lines of the present history that were sent.
        digest: SHA-256 of the steps and losses of those lines.
    """

    id: str
    version: int = 1
    n_lines: int = 0
    digest: str = hashlib.sha256().hexdigest()

    @property
    def run_id(self) -> str:
        """Name this version of the run."""
        return self.id if self.version == 1 else f"{self.id}-{self.version}"


def tracking_path(run_dir: str | Path) -> Path:
    """Say where a run folder keeps what wandb has of it."""
    return Path(run_dir) / "tracking.json"


def read_tracked(run_dir: str | Path) -> Tracked:
    """Read what wandb has of a run; draw an id for one that it has nothing of.

    Raises:
        ConfigError: The file is damaged.
    """
    path = tracking_path(run_dir)
    if not path.exists():
        return Tracked(id=secrets.token_hex(4))
    try:
        return Tracked(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: damaged ({first_line(error)}); remove it, and the run begins anew in wandb"
        ) from None


def write_tracked(run_dir: str | Path, tracked: Tracked) -> None:
    """Write what wandb has of a run, whole or not at all."""
    write_whole(tracking_path(run_dir), json.dumps(asdict(tracked)) + "\n")


class WandbRun:
    """A run in wandb that is sent each line once, whatever is repeated or taken back.

    Attributes:
        n_sent: Lines that this object sent.
    """

    def __init__(
        self, config: RunConfig, history: Callable[[], Sequence[Line]], *, mode: str, project: str
    ) -> None:
        """Open the run and send what it lacks of its history.

        Args:
            history: Gives the lines so far; see metrics.read_history.

        Raises:
            ConfigError: See open_wandb.
        """
        self.config = config
        self.history = history
        self.mode = mode
        self.project = project
        self.n_sent = 0
        lines = history()
        self.tracked = read_tracked(config.run_dir)
        if self.tracked.digest != digest_lines(lines[: self.tracked.n_lines]):
            self.tracked = replace(self.tracked, version=self.tracked.version + 1, n_lines=0)
        self.open(lines)

    def open(self, lines: Sequence[Line]) -> None:
        """Open the present version, and send the lines that it lacks."""
        self.run = open_wandb(self.config, self.tracked, mode=self.mode, project=self.project)
        n_known = self.tracked.n_lines
        self.sent = {key_of(line): loss_of(line) for line in lines[:n_known]}
        self.digest = start_digest(lines[:n_known])
        for line in lines[n_known:]:
            self.send(line)

    def send(self, line: Line) -> None:
        """Send a line, unless it is there; where another stands there, begin a new version."""
        key = key_of(line)
        if key in self.sent and self.sent[key] == loss_of(line):
            return
        if key in self.sent:
            self.run.finish()
            self.tracked = replace(self.tracked, version=self.tracked.version + 1, n_lines=0)
            self.open([own for own in self.history() if key_of(own) < key])
        self.run.log(line)
        self.sent[key] = loss_of(line)
        self.digest.update(identify(line))
        self.n_sent += 1
        self.tracked = replace(
            self.tracked, n_lines=self.tracked.n_lines + 1, digest=self.digest.hexdigest()
        )
        write_tracked(self.config.run_dir, self.tracked)

    def close(self) -> None:
        """Send what is under way and leave."""
        self.run.finish()


def key_of(line: Line) -> tuple[float, ...]:
    """Name the place of a line in a history: its step, and training, validation, checkpoint."""
    kinds = ("checkpoint/", "validation/")
    return line["step"], *(any(name.startswith(kind) for name in line) for kind in kinds)


def loss_of(line: Line) -> float | None:
    """Give what a repeated step has in common with the first time, and another step has not."""
    return line.get("train/loss_nats_per_token")


def identify(line: Line) -> bytes:
    """Give the bytes of a line that are hashed."""
    return json.dumps([key_of(line), loss_of(line)]).encode()


def start_digest(lines: Sequence[Line]) -> Any:
    """Begin the digest of a history with some lines."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(identify(line))
    return digest


def digest_lines(lines: Sequence[Line]) -> str:
    """Hash the steps and losses of some lines."""
    return start_digest(lines).hexdigest()


def open_wandb(config: RunConfig, tracked: Tracked, *, mode: str, project: str) -> Any:
    """Begin the run in wandb, or go on with it.

    Raises:
        ConfigError: wandb is not installed, not logged in, or cannot be reached.
    """
    try:
        import wandb  # pyright: ignore[reportMissingImports]  (an extra)
    except ImportError as error:
        raise ConfigError(
            f"wandb {mode}: wandb is not installed; pip install -e '.[wandb]', or set "
            "metrics.wandb=disabled"
        ) from error
    try:
        run = wandb.init(
            project=project,
            mode=mode,  # pyright: ignore[reportArgumentType]
            dir=config.run_dir,
            id=tracked.run_id,
            resume="allow",
            name=Path(config.run_dir).name,
            config=to_dict(config),
            settings=wandb.Settings(silent=True),
        )
    except wandb.Error as error:
        raise ConfigError(
            f"wandb {mode}: {first_line(error)}; log in, or take mode offline and send the run "
            "with `wandb sync`"
        ) from error
    run.define_metric("*", step_metric="step")
    return run
