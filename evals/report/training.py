"""The section on training: its loss, its learning rate, and what happened on the way."""

import math
from collections.abc import Sequence

import numpy as np

from evals.report.blocks import Column, Figure, Missing, Prose, Section, Table
from evals.report.charts import (
    Axes,
    Label,
    Sheet,
    keep_few_ticks,
    label_ends,
    picture,
    write_thousands,
)
from evals.report.events import KINDS, Event, Kind, count_events
from evals.report.gather import LOSS, Run
from evals.report.palette import light
from evals.report.series import (
    Series,
    first_finite,
    last_finite,
    number,
    pick,
    series,
    smooth,
    thin,
    window_of,
)
from evals.report.words import command, count, figure, one_line, several
from helix.training.metrics import Record

ANCHOR = "training-curve"
EVENTS_ANCHOR = "events"
RATE = "train/learning_rate"
TABLE_ROWS = 16
NAMED_EVENTS = 30
MARKS = {"warm start": "D", "skipped": "x", "rolled back": "<", "started again": "|"}
COLOURS = {
    "warm start": "green",
    "skipped": "red",
    "rolled back": "orange",
    "started again": "slate",
}
FRAMED_SHARE = 0.995  # of the losses are in the frame
TALLEST = 1.25  # of the highest smoothed loss: what is higher is counted, not drawn


def training_section(run: Run) -> Section:
    """Show how the run was trained."""
    losses = series(run.steps, LOSS)
    blocks: list[object] = [
        curve(run, losses) if losses else no_loss(run),
        list_events(run.events) if run.events else Prose(nothing_happened(run)),
    ]
    return Section(anchor="training", title="Training", blocks=blocks)


def no_loss(run: Run) -> Missing:
    """Say that there is no curve."""
    return Missing(
        anchor=ANCHOR,
        title="Training loss",
        why="metrics.jsonl holds no finite loss of a step.",
        command=command("helix", "train", f"run_dir={run.run_dir}"),
    )


def nothing_happened(run: Run) -> str:
    """Say what an empty list of events means."""
    if not run.steps:
        return "No step was taken."
    return "No step was skipped, nothing was rolled back, and the run was started once."


def curve(run: Run, losses: Series) -> Figure:
    """Draw loss, learning rate and events over steps."""
    smoothed, rates = smooth(losses_of_steps_taken(run)), series(run.steps, RATE)
    kinds = list(count_events(run.events))
    title = "Training loss and learning rate"
    happened = ", ".join(f"{n} {kind}" for kind, n in count_events(run.events).items())
    description = (
        f"Loss by optimizer step: it begins at {figure(first_finite(losses), 3)} and ends at "
        f"{figure(last_finite(smoothed), 3)} nats per token (smoothed), "
        f"after {several(run.last_step, 'step')}. Events: {happened or 'none'}."
    )

    def draw(sheet: Sheet) -> None:
        n_strips = max(len(kinds), 1)
        heights = [7, 2, 0.55 * n_strips + 0.2] if kinds else [7, 2]
        panels = sheet.figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        draw_loss(sheet, panels[0], losses, smoothed, run.events)
        draw_rate(panels[1], rates)
        if kinds:
            draw_events(panels[2], run.events, kinds)
        panels[-1].set_xlabel("optimizer step")
        keep_few_ticks(panels[-1], sheet)
        write_thousands(panels[-1].xaxis)

    extra = 18 * len(kinds)
    return Figure(
        anchor=ANCHOR,
        title=title,
        caption=(
            "Each step's loss on its own batch (pale) and its running mean over "
            f"{several(window_of(len(losses.y)), 'step')} (dark), without those that were skipped. "
            "Steps that were repeated show their last time. The loss axis does not begin at 0."
        ),
        picture=picture(
            "training-curve",
            draw,
            title=title,
            description=description,
            heights=(380 + extra, 400 + extra),
        ),
        table=curve_table(run, losses, smoothed),
    )


def draw_loss(
    sheet: Sheet, axes: Axes, losses: Series, smoothed: Series, events: Sequence[Event]
) -> None:
    """Draw raw and smoothed losses; what is above the frame is counted."""
    raw, finite = thin(losses), losses.y[np.isfinite(losses.y)]
    axes.plot(raw.x, raw.y, color=light("blue"), alpha=0.45, linewidth=0.8)
    smooth_line = thin(smoothed)
    axes.plot(smooth_line.x, smooth_line.y, color=light("blue"))
    low, high = frame(losses, smoothed)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)
    n_above = int((finite > high + margin).sum())
    if n_above:
        told = f"{n_above:,} above the frame, up to {figure(float(finite.max()), 3)}"
        axes.annotate(
            told, (1, 1), xycoords="axes fraction", ha="right", va="top", color=light("muted")
        )
    for event in events:
        if event.kind == "rolled back":
            axes.axvline(event.step, color=light("orange"), linewidth=0.9, linestyle=(0, (2, 2)))
    axes.set_title("Loss, nats per token")
    end = last_finite(smoothed)
    label_ends(sheet, axes, [Label(end, figure(end, 3), light("blue"))])


def draw_rate(axes: Axes, rates: Series) -> None:
    """Draw the learning rate, from 0 up."""
    line = thin(rates)
    axes.plot(line.x, line.y, color=light("slate"), linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=3)
    axes.set_title("Learning rate")


def draw_events(axes: Axes, events: Sequence[Event], kinds: Sequence[Kind]) -> None:
    """Draw a line of marks for each kind of event."""
    for row, kind in enumerate(kinds):
        found = [event for event in events if event.kind == kind]
        colour, mark = light(COLOURS[kind]), MARKS[kind]
        axes.plot([e.step for e in found], [row] * len(found), mark, color=colour, markersize=6)
        for event in found:
            if event.to_step is not None:
                axes.plot([event.to_step, event.step], [row, row], color=colour, linewidth=1.2)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylim(len(kinds) - 0.4, -0.6)
    axes.grid(visible=False)
    axes.set_title("Events")


def curve_table(run: Run, losses: Series, smoothed: Series) -> Table:
    """Give evenly spaced points of the curve."""
    by_step = {number(record, "step"): record for record in run.steps}
    smooth_at = dict(zip(smoothed.x.tolist(), smoothed.y.tolist(), strict=True))
    rows = []
    for i in pick(len(losses.x), TABLE_ROWS):
        record = by_step[float(losses.x[i])]
        rows.append(
            (
                count(float(losses.x[i])),
                count(number(record, "tokens")),
                figure(float(losses.y[i])),
                figure(smooth_at.get(float(losses.x[i]), math.nan)),
                figure(number(record, "train/bits_per_byte")),
                figure(number(record, RATE), 3),
                figure(number(record, "train/gradient_norm"), 3),
            )
        )
    names = ("step", "tokens", "nats/token", "smoothed", "bits/byte", "rate", "gradient norm")
    return Table(
        caption=f"{len(rows)} of {several(len(losses.x), 'step')}, evenly spaced",
        columns=tuple(Column(name, is_number=True) for name in names),
        rows=rows,
        is_folded=True,
    )


def list_events(events: Sequence[Event]) -> Table:
    """List events in words."""
    counts = count_events(events)
    named = events[:NAMED_EVENTS]
    left_out = len(events) - len(named)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if kind in counts)
    tail = f"; the first {NAMED_EVENTS} are listed" if left_out else ""
    return Table(
        anchor=EVENTS_ANCHOR,
        caption=f"Events beside steps: {told}{tail}",
        columns=(Column("step", is_number=True), Column("what happened")),
        rows=[(count(event.step), one_line(event.told, most=160)) for event in named],
    )


def losses_of_steps_taken(run: Run) -> Series:
    """Give the losses of those steps that changed the weights; of all, where none did."""
    return series(steps_taken(run), LOSS) or series(run.steps, LOSS)


def steps_taken(run: Run) -> list[Record]:
    """Give the figures of those steps that were not skipped."""
    return [record for record in run.steps if record.get("train/is_step_applied") != 0]


def frame(losses: Series, smoothed: Series) -> tuple[float, float]:
    """Give the bounds between which losses are drawn: a few spikes shall not flatten the rest."""
    kept = smoothed.y[np.isfinite(smoothed.y)]
    finite = losses.y[np.isfinite(losses.y)]
    top = min(float(np.quantile(finite, FRAMED_SHARE)), TALLEST * float(kept.max()))
    return float(finite.min()), max(top, float(kept.max()))
