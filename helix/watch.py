"""Watch a run in the terminal: where it is, how fast, how well, and what went wrong.

Only files of the run folder are read, so it works over ssh, from a login node, on a run of SLURM,
and on one that has ended.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from helix.config import ConfigError, read_saved
from helix.presets import PRESETS
from helix.training import incidents
from helix.training.checkpoint import list_saved
from helix.training.metrics import Record, metrics_path, read_records

RECENT_STEPS = 50  # that speed and the time to come are taken from
NAMED_EVENTS = 6
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_COLUMNS = 48
SILENT_STEPS = 20  # of usual length without a line: then the run may hang, or have been killed


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """Options of `helix watch`.

    Attributes:
        run_dir: Folder of the run.
        every_s: Seconds between two looks.
        once: Look once and end; so does a terminal that is none.
        json: Print what is known for machines, once.
    """

    run_dir: str
    every_s: float = 2.0
    once: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if not self.every_s > 0:
            raise ConfigError(f"every_s={self.every_s}: give more than 0")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a run is.

    Attributes:
        age_s: Since it wrote its last line.
        left_s: Until its last step at the present speed; None before speed is known.
        held_out: Source to bits per byte at the last validation.
        checkpoint_step: Of the newest checkpoint; None before there is one.
        losses: Of all steps where it was finite, in nats per token.
        events: What happened beside steps, the newest last, each in one line.
        is_silent: No line for much longer than a step takes, and the run is not at its end.
    """

    run_dir: str
    step: int
    n_steps: int
    n_tokens: int
    attempt: int
    age_s: float
    left_s: float | None
    figures: dict[str, float]
    held_out: dict[str, float]
    checkpoint_step: int | None
    losses: list[float]
    events: list[str]
    is_silent: bool


def look(run_dir: str | Path) -> Standing:
    """Read where a run is.

    Raises:
        ConfigError: There is no run, or it has written nothing yet.
    """
    config = read_saved(run_dir, PRESETS)
    records = read_records(run_dir)
    steps = [record for record in records if "speed/step_ms" in record]
    if not steps:
        raise ConfigError(f"run_dir={run_dir}: has taken no step yet")
    last, recent = steps[-1], steps[-RECENT_STEPS:]
    step_s = statistics.median(record["speed/step_ms"] for record in recent) / 1e3
    n_left = config.training.n_steps - int(last["step"])
    age_s = time.time() - metrics_path(run_dir).stat().st_mtime
    saved = list_saved(run_dir)
    return Standing(
        run_dir=str(run_dir),
        step=int(last["step"]),
        n_steps=config.training.n_steps,
        n_tokens=int(last["tokens"]),
        attempt=int(last["attempt"]),
        age_s=round(age_s, 1),
        left_s=n_left * step_s,
        figures=summarise(recent),
        held_out=last_validation(records),
        checkpoint_step=saved[-1].step if saved else None,
        losses=[
            loss for record in steps if (loss := record["train/loss_nats_per_token"]) is not None
        ],
        events=list_events(run_dir, steps),
        is_silent=n_left > 0 and age_s > max(SILENT_STEPS * step_s, 60.0),
    )


def summarise(recent: Sequence[Record]) -> dict[str, float]:
    """Take the last figures of the model, and the median of those of speed."""
    last = recent[-1]
    named = ("train/loss_nats_per_token", "train/bits_per_byte", "train/learning_rate")
    figures = {name: last[name] for name in (*named, "train/gradient_norm") if last.get(name)}
    for name in ("speed/tokens_per_s", "speed/mfu", "speed/data_wait_ms", "memory/peak_gib"):
        values = [record[name] for record in recent if record.get(name) is not None]
        if values:
            figures[name] = statistics.median(values)
    return figures


def last_validation(records: Sequence[Record]) -> dict[str, float]:
    """Give bits per byte by source, of the last validation; a source without a number is none."""
    ends = "/bits_per_byte"
    found = [r for r in records if any(name.startswith("validation/") for name in r)]
    return {
        name.removeprefix("validation/").removesuffix(ends): value
        for name, value in (found[-1].items() if found else ())
        if name.startswith("validation/") and name.endswith(ends) and value is not None
    }


def list_events(run_dir: str | Path, steps: Sequence[Record]) -> list[str]:
    """Tell of skipped steps, rollbacks and new starts, in the order of steps."""
    events: list[tuple[float, str]] = []
    for entry in incidents.read(run_dir):
        step, kind = entry.get("step", 0), entry.get("kind", "?")
        told = f"step {step}: skipped, {kind}"
        if kind == incidents.ROLLBACK:
            told = f"step {step}: rolled back to {entry.get('to_step', '?')}"
        events.append((step, told))
    for before, after in pairwise(steps):
        if after["attempt"] > before["attempt"]:
            events.append((after["step"], f"step {after['step']}: attempt {after['attempt']:.0f}"))
    return [told for _, told in sorted(events, key=lambda event: event[0])]


def draw(standing: Standing, *, width: int = 60) -> Group:
    """Lay a standing out for a terminal."""
    bar = Table.grid()  # a bar by itself ends in no new line
    bar.add_row(ProgressBar(total=standing.n_steps, completed=standing.step, width=width))
    head = Text(f"{standing.run_dir}  step {standing.step:,} of {standing.n_steps:,}, ")
    head.append(f"{standing.n_tokens:,} tokens")
    if standing.left_s:
        head.append(f", {duration(standing.left_s)} to go")
    table = Table.grid(padding=(0, 2))
    for name, value in standing.figures.items():
        table.add_row(Text(name, style="dim"), f"{value:,.4g}")
    for source, value in standing.held_out.items():
        table.add_row(Text(f"held out, {source}", style="dim"), f"{value:.4f} bits/byte")
    saved = standing.checkpoint_step
    table.add_row(Text("checkpoint", style="dim"), "none yet" if saved is None else f"step {saved}")
    parts = [head, bar, Text(f"loss {sparkline(standing.losses)}"), table]
    parts += [Text(event, style="yellow") for event in standing.events[-NAMED_EVENTS:]]
    if standing.is_silent:
        told = f"no line for {duration(standing.age_s)}: does it still run?"
        parts.append(Text(told, style="bold red"))
    return Group(*parts)


def sparkline(values: Sequence[float]) -> str:
    """Draw a series in one line, each column the mean of its share."""
    if not values:
        return ""
    n_columns = min(len(values), SPARK_COLUMNS)
    edges = [round(column * len(values) / n_columns) for column in range(n_columns + 1)]
    means = [statistics.fmean(values[a:b]) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(SPARKS[round((mean - low) * scale)] for mean in means)


def duration(seconds: float) -> str:
    """Write a time as a person says it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def watch(options: WatchConfig) -> None:
    """Show where a run is, again and again until it is at its end or Ctrl-C."""
    standing = look(options.run_dir)
    if options.json:
        print(json.dumps(asdict(standing)))
        return
    console = Console()
    if options.once or not sys.stdout.isatty():
        console.print(draw(standing))
        return
    with Live(draw(standing), console=console, auto_refresh=False) as live:
        while standing.step < standing.n_steps:
            time.sleep(options.every_s)
            standing = look(options.run_dir)
            live.update(draw(standing), refresh=True)
