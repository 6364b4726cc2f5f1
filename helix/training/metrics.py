"""metrics.jsonl, the truth of a run's figures, with progress for people and wandb when asked.

Each line is one JSON object: step, attempt, tokens, and figures whose names end in their unit. A
run that was killed writes some steps twice; `read_records` gives each step's last line.
"""

import json
import math
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from helix.config import RunConfig
from helix.training.lines import is_torn, read_lines
from helix.training.tracking import WandbRun, key_of, loss_of

Record = dict[str, float]
PLAIN_LINES = 20  # lines of progress that a whole run prints where there is no terminal


def metrics_path(run_dir: str | Path) -> Path:
    """Say where a run folder keeps its figures."""
    return Path(run_dir) / "metrics.jsonl"


def read_records(run_dir: str | Path) -> list[Record]:
    """Read a run's figures in order of step; see `read_history` for which."""
    return sorted(read_history(run_dir), key=key_of)


def read_history(run_dir: str | Path) -> list[Record]:
    """Read a run's figures in the order in which their places were first written.

    Of a step that was repeated the last attempt's count. Where it has another loss than before, the
    run went back: what had come after is no longer its. A line torn by a kill, or by a disk, is
    left out.
    """
    by_place: dict[tuple[float, ...], Record] = {}
    for record in read_lines(metrics_path(run_dir)):
        place = key_of(record)
        if place in by_place and loss_of(by_place[place]) != loss_of(record):
            by_place = {own: kept for own, kept in by_place.items() if own < place}
        by_place[place] = record
    return list(by_place.values())


def longest_save_s(records: Iterable[Record]) -> float:
    """Find how long the longest save of a run took, over all its attempts; 0 before the first."""
    saves = (record.get("checkpoint/write_s") for record in records)
    return max((seconds for seconds in saves if seconds), default=0.0)


class Metrics:
    """Writes figures on the main rank; on the others it does nothing."""

    def __init__(self, config: RunConfig, *, is_main: bool, attempt: int) -> None:
        self.is_main = is_main
        self.attempt = attempt
        self.n_steps = config.training.n_steps
        self.stream = None
        self.wandb = None
        self.bar: Progress | None = None
        if not is_main:
            return
        begin = "\n" if is_torn(metrics_path(config.run_dir)) else ""
        self.stream = metrics_path(config.run_dir).open("a", encoding="utf-8")
        self.stream.write(begin)
        if config.metrics.wandb != "disabled":
            self.wandb = WandbRun(
                config,
                partial(read_history, config.run_dir),
                mode=config.metrics.wandb,
                project=config.metrics.wandb_project,
            )
        if sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("train"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )

    def __enter__(self) -> "Metrics":
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task("train", total=self.n_steps, note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()
        if self.stream:
            self.stream.close()
        if self.wandb:
            self.wandb.close()

    def write(self, step: int, n_tokens: int, record: Record) -> None:
        """Append one line, and show it."""
        if self.stream is None:
            return
        figures = {k: v if math.isfinite(v) else None for k, v in record.items()}  # JSON has no NaN
        line = {"step": step, "attempt": self.attempt, "tokens": n_tokens, **figures}
        self.stream.write(json.dumps(line) + "\n")
        self.stream.flush()
        if self.wandb:
            self.wandb.send(line)
        self._show(step, record)

    def _show(self, step: int, record: Record) -> None:
        note = _note(record)
        if self.bar:
            self.bar.update(self.task, completed=step, note=note)
            if "train/loss_nats_per_token" not in record:
                self.bar.console.print(f"step {step}: {note}")
        elif "train/loss_nats_per_token" not in record or (
            step % max(1, self.n_steps // PLAIN_LINES) == 0
        ):
            print(f"step {step}/{self.n_steps}: {note}", file=sys.stderr, flush=True)


def _note(record: Record) -> str:
    if "train/loss_nats_per_token" in record:
        return (
            f"{record['train/loss_nats_per_token']:.3f} nats/token, "
            f"{record['train/bits_per_byte']:.2f} bits/byte, "
            f"{record['speed/tokens_per_s']:,.0f} tokens/s"
        )
    if "checkpoint/write_s" in record:
        return (
            f"saved {record['checkpoint/gib']:.2f} GiB in {record['checkpoint/write_s']:.1f} s; "
            f"training stood still for {record['checkpoint/stall_ms']:.0f} ms, "
            f"{record['checkpoint/wait_ms']:.0f} of them until all was written"
        )
    named = {k: v for k, v in record.items() if k.endswith("bits_per_byte")}
    return "held-out bits/byte: " + ", ".join(
        f"{k.split('/')[1]} {v:.3f}" for k, v in named.items()
    )
