"""The section on speed: throughput, use of the devices, waiting for data, memory."""

import numpy as np

from evals.report.blocks import Facts, Figure, Missing, Section, Table, figures
from evals.report.charts import Axes, Sheet, picture, write_thousands
from evals.report.gather import Run
from evals.report.palette import light
from evals.report.series import Series, median, number, quantile, series, smooth, thin
from evals.report.words import command, figure

ANCHOR = "speed-over-steps"
SAVES_ANCHOR = "checkpoint-cost"
PANELS = (
    ("speed/tokens_per_s", "Tokens per second", "blue"),
    ("speed/mfu", "Model FLOP utilisation, share of the peak", "purple"),
    ("speed/data_wait_ms", "Waiting for data, ms a step", "orange"),
    ("memory/peak_gib", "Peak memory of the main rank, GiB", "green"),
)


def speed_section(run: Run) -> Section:
    """Show how fast the run was."""
    drawn = [(series(run.steps, name), title, colour) for name, title, colour in PANELS]
    drawn = [panel for panel in drawn if panel[0]]
    blocks: list[object] = [over_steps(run, drawn) if drawn else no_speed(run)]
    if drawn and not series(run.steps, "speed/mfu"):
        blocks.append(no_mfu())
    blocks.append(saves(run))
    return Section(anchor="speed", title="Speed and memory", blocks=blocks)


def no_speed(run: Run) -> Missing:
    """Say that there are no figures of speed."""
    return Missing(
        anchor=ANCHOR,
        title="Throughput, utilisation, memory",
        why="metrics.jsonl holds no figures of speed.",
        command=command("helix", "train", f"run_dir={run.run_dir}"),
    )


def no_mfu() -> Missing:
    """Say why there is no utilisation."""
    return Missing(
        anchor="mfu",
        title="Model FLOP utilisation",
        why="The peak of the device was not known to the run, as on a CPU, so there is nothing to "
        "take a share of.",
        command="helix train ... metrics.peak_tflops=TFLOPS_OF_ONE_DEVICE",
    )


def over_steps(run: Run, drawn: list[tuple[Series, str, str]]) -> Figure:
    """Draw each figure over steps in a panel of its own."""
    title = "Speed and memory over steps"
    speed = [number(record, "speed/tokens_per_s") for record in run.steps]
    described = "; ".join(
        f"{name.lower()}: median {figure(median(own.y.tolist()), 3)}" for own, name, _ in drawn
    )

    def draw(sheet: Sheet) -> None:
        n_columns = 1 if sheet.is_narrow else min(2, len(drawn))
        n_rows = -(-len(drawn) // n_columns)
        grid = sheet.figure.subplots(n_rows, n_columns, sharex=True, squeeze=False)
        for axes, (own, name, colour) in zip(grid.flat, drawn, strict=False):
            draw_panel(axes, own, name, colour)
        for axes in grid.flat[len(drawn) :]:
            axes.set_axis_off()
        for axes in grid[-1]:
            axes.set_xlabel("optimizer step")
            axes.locator_params(axis="x", nbins=5, min_n_ticks=2)
            write_thousands(axes.xaxis)

    n_rows = -(-len(drawn) // 2)
    return Figure(
        anchor=ANCHOR,
        title=title,
        caption=(
            "Each step (pale) and its running mean (dark). All axes begin at 0. Of a step, "
            f"half were faster than {figure(median(speed), 3)} tokens per second, one in twenty "
            f"slower than {figure(quantile(speed, 0.05), 3)}. Figures are of all ranks together, "
            "memory and waiting of the main one."
        ),
        picture=picture(
            "speed",
            draw,
            title=title,
            description=f"By optimizer step: {described}.",
            heights=(60 + 165 * n_rows, 60 + 145 * len(drawn)),
        ),
        table=speed_table(drawn),
    )


def draw_panel(axes: Axes, own: Series, name: str, colour: str) -> None:
    """Draw one figure."""
    raw, line = thin(own), thin(smooth(own))
    axes.plot(raw.x, raw.y, color=light(colour), alpha=0.45, linewidth=0.8)
    axes.plot(line.x, line.y, color=light(colour))
    finite = own.y[np.isfinite(own.y)]
    top = max(float(np.quantile(finite, 0.99)), float(np.nanmax(line.y)))
    axes.set_ylim(0, 1.12 * top or 1.0)
    axes.locator_params(axis="y", nbins=5)
    write_thousands(axes.yaxis)
    axes.set_title(name)


def speed_table(drawn: list[tuple[Series, str, str]]) -> Table:
    """Give quantiles of each figure."""
    shares = (0.05, 0.5, 0.95)
    rows = [
        (name, *(figure(quantile(own.y.tolist(), part)) for part in shares))
        for own, name, _ in drawn
    ]
    return Table(
        caption="Over all steps",
        columns=figures("figure", "5% quantile", "median", "95% quantile"),
        rows=rows,
        is_folded=True,
    )


def saves(run: Run) -> Facts | Missing:
    """Say what checkpoints cost."""
    if not run.saves:
        return Missing(
            anchor=SAVES_ANCHOR,
            title="Cost of checkpoints",
            why="The run wrote no figure of a checkpoint.",
            command="helix train ... training.checkpoint_every_steps=N",
        )
    stalls = [number(record, "checkpoint/stall_ms") for record in run.saves]
    writes = [number(record, "checkpoint/write_s") for record in run.saves]
    sizes = [number(record, "checkpoint/gib") for record in run.saves]
    return Facts(
        pairs=(
            ("checkpoints written", f"{len(run.saves):,}"),
            ("size, median", f"{figure(median(sizes), 3)} GiB"),
            ("until it is whole, median", f"{figure(median(writes), 3)} s"),
            ("training stood still, median", f"{figure(median(stalls), 3)} ms"),
            ("longest stall", f"{figure(quantile(stalls, 1.0), 3)} ms"),
        )
    )


def waiting_share(run: Run) -> float:
    """Give the share of all steps' time that was spent waiting for data."""
    waits = series(run.steps, "speed/data_wait_ms").y
    steps = series(run.steps, "speed/step_ms").y
    total = float(np.nansum(steps))
    return float(np.nansum(waits)) / total if total else float("nan")
