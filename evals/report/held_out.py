"""The section on held-out text: bits per byte over steps, beside baselines, and by position."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

from evals.contract import Result
from evals.report.blocks import Column, Figure, Missing, Section, Table, figures
from evals.report.charts import (
    Axes,
    Label,
    Sheet,
    keep_few_ticks,
    label_ends,
    picture,
    write_thousands,
)
from evals.report.evidence import Evidence, Reading, name_of, read, shares_set
from evals.report.gather import Run
from evals.report.palette import dashes_of, light, of_series
from evals.report.series import Series, first_finite, last_finite, number, pick, series
from evals.report.words import NOTHING, command, count, figure, fixed, one_line, span

VALIDATION = "validation-over-steps"
BITS = "bits-per-byte"
POSITIONS = "bits-by-position"
GAP = "language-gap"
EVALUATION = "bits_per_byte"
SUFFIX = "/bits_per_byte"
BASELINES = ("order0", "order1", "gzip", "xz", "ppm")
BASELINE_MARKS = {"order0": "s", "order1": "D", "gzip": "^", "xz": "v", "ppm": "p"}
TABLE_ROWS = 16
FEW_POINTS = 40  # each of which gets a mark
N_DRAWN = 24  # lines or rows of one figure; the table has all
N_CONTROLS = 2  # drawn beside the run's own; the table has all


@dataclass(frozen=True, kw_only=True)
class Row:
    """Bits per byte of one part of the held-out text.

    Attributes:
        group: "source", "language" or "domain".
        baselines: Bits per byte of simple models on the same bytes.
        controls: Other models on the same text, by name.
    """

    group: str
    name: str
    reading: Reading
    baselines: dict[str, float] = field(default_factory=dict)
    controls: dict[str, Reading] = field(default_factory=dict)


def held_out_section(run: Run, evidence: Evidence) -> Section:
    """Show how well held-out text is foreseen."""
    result = evidence.own.get(EVALUATION)
    blocks: list[object] = [
        over_steps(run),
        beside_baselines(run, evidence),
        by_position(run, result),
        language_gap(run, result),
    ]
    return Section(anchor="held-out", title="Held-out text", blocks=blocks)


def validated_sources(run: Run) -> list[str]:
    """List the sources that were validated in the loop."""
    names = {name for record in run.validations for name in record}
    ends = [name for name in names if name.startswith("validation/") and name.endswith(SUFFIX)]
    return sorted(name.removeprefix("validation/").removesuffix(SUFFIX) for name in ends)


def over_steps(run: Run) -> Figure | Missing:
    """Draw in-loop validation by source."""
    found = {
        name: series(run.validations, f"validation/{name}{SUFFIX}")
        for name in validated_sources(run)
    }
    found = {name: own for name, own in found.items() if own}
    if not found:
        return Missing(
            anchor=VALIDATION,
            title="Held-out bits per byte over steps",
            why="The run wrote no validation.",
            command="helix train ... training.validate_every_steps=N",
        )
    title = "Held-out bits per byte over steps"
    told = "; ".join(
        f"{one_line(name)} from {figure(first_finite(own))} to {figure(last_finite(own))}"
        for name, own in found.items()
    )

    extra = 12 * max(len(found) - 6, 0)
    return Figure(
        anchor=VALIDATION,
        title=title,
        caption=(
            "Taken by the run itself, each source's held-out documents read whole. Less is better. "
            "The axis does not begin at 0."
        ),
        picture=picture(
            "validation",
            partial(draw_validation, found=found),
            title=title,
            description=f"{told}.",
            heights=(290 + extra, 290 + extra),
        ),
        table=validation_table(run, list(found)),
    )


def draw_validation(sheet: Sheet, *, found: Mapping[str, Series]) -> None:
    """Draw a line for each source."""
    axes = sheet.figure.subplots()
    labels = []
    for i, (name, own) in enumerate(list(found.items())[:N_DRAWN]):
        mark = 3.5 if len(own.x) < FEW_POINTS else 0
        style = {"color": of_series(i), "linestyle": dashes_of(i), "markersize": mark}
        axes.plot(own.x, own.y, marker="o", **style)
        last = last_finite(own)
        labels.append(Label(last, f"{name}  {figure(last, 3)}", of_series(i)))
    axes.set(xlabel="optimizer step")
    axes.set_title("Bits per byte of held-out text")
    keep_few_ticks(axes, sheet)
    write_thousands(axes.xaxis)
    label_ends(sheet, axes, labels)


def validation_table(run: Run, sources: Sequence[str]) -> Table:
    """Give evenly spaced points of the validation."""
    chosen = [run.validations[i] for i in pick(len(run.validations), TABLE_ROWS)]
    names = ("step", "tokens", *(one_line(source) for source in sources))
    return Table(
        caption="Bits per byte of held-out text by source",
        columns=tuple(Column(name, is_number=True) for name in names),
        rows=[
            (
                count(number(record, "step")),
                count(number(record, "tokens")),
                *(figure(number(record, f"validation/{s}{SUFFIX}")) for s in sources),
            )
            for record in chosen
        ],
        is_folded=True,
    )


def bits_rows(run: Run, evidence: Evidence) -> list[Row]:
    """List what is known of held-out text, by the evaluation or else by the run itself."""
    result = evidence.own.get(EVALUATION)
    if result is None:
        return rows_of_summary(run)
    controls = evidence.others_of(EVALUATION)
    rows = []
    for path, measure in result.measures.items():
        group, _, name = path.removesuffix(SUFFIX).partition("/")
        if not path.endswith(SUFFIX) or group not in ("source", "language", "domain"):
            continue
        if not math.isfinite(measure.value):
            continue  # of which the result itself warns
        others = {
            told: read(other.measures[path])
            for told, other in controls.items()
            if path in other.measures and shares_set(result, other, path)
        }
        baselines = baselines_of(result, name) if group == "source" else {}
        rows.append(
            Row(
                group=group,
                name=name,
                reading=read(measure),
                baselines=baselines,
                controls=others,
            )
        )
    order = ("language", "domain", "source")
    return sorted(rows, key=lambda row: (order.index(row.group), row.name))


def baselines_of(result: Result, source: str) -> dict[str, float]:
    """Give the baselines of a source that are there."""
    return numbers(result.figures.get("sources", {}).get(source, {}).get("baselines", {}))


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Keep the known baselines that are numbers."""
    kept = {name: number(values, name) for name in BASELINES}
    return {name: value for name, value in kept.items() if math.isfinite(value)}


def rows_of_summary(run: Run) -> list[Row]:
    """Take the run's own last validation, with the baselines of its demo where it is one."""
    if not run.validations:
        return []
    last, told = run.validations[-1], run.summary.get("baselines", {})
    rows = []
    for name in validated_sources(run):
        value = number(last, f"validation/{name}{SUFFIX}")
        if math.isfinite(value):
            reading = Reading(
                value=value,
                low=math.nan,
                high=math.nan,
                unit="bits/byte",
                is_lower_better=True,
                n_items=0,
            )
            rows.append(
                Row(
                    group="source",
                    name=name,
                    reading=reading,
                    baselines=numbers(told.get(name, {})),
                )
            )
    return rows


def beside_baselines(run: Run, evidence: Evidence) -> Figure | Missing:
    """Draw bits per byte of each part with its interval and baselines."""
    rows = bits_rows(run, evidence)
    title = "Bits per byte by language, domain and source"
    if not rows:
        return Missing(
            anchor=BITS,
            title=title,
            why="There is no result of bits_per_byte in numbers, and the run wrote no validation.",
            command=evaluate_command(run, EVALUATION),
        )
    drawn = rows[:N_DRAWN]
    told = "; ".join(
        f"{one_line(row.name)} ({row.group}) {figure(row.reading.value)}" for row in rows[:12]
    )

    def draw(sheet: Sheet) -> None:
        draw_rows(sheet, sheet.figure.subplots(), drawn)

    height = 90 + 27 * len(lines_of(drawn))
    return Figure(
        anchor=BITS,
        title=title,
        caption=describe_rows(run, evidence, rows),
        picture=picture(
            "bits-per-byte",
            draw,
            title=title,
            description=f"{told}. All figures are in the table below.",
            heights=(height, height + 30),
        ),
        table=rows_table(rows),
    )


def describe_rows(run: Run, evidence: Evidence, rows: Sequence[Row]) -> str:
    """Say what the rows are and what they are not."""
    result = evidence.own.get(EVALUATION)
    if result is None:
        told = (
            f"From the run's own validation at step {number(run.validations[-1], 'step'):,.0f}: "
            "no interval and no sums by language were taken; helix evaluate bits_per_byte makes "
            "them."
        )
    else:
        told = (
            f"{name_of(result)}; lines are intervals of 95% over documents drawn anew. The end of "
            "each document is charged to the model."
        )
    if any(row.baselines for row in rows):
        told += " Hollow marks are simple models on the same bytes."
    return f"{told} Less is better."


def draw_rows(sheet: Sheet, axes: Axes, rows: Sequence[Row]) -> None:
    """Draw one line of marks for each part, under the name of its group."""
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    lines = lines_of(rows)
    for y, line in enumerate(lines):
        if isinstance(line, Row):
            draw_row(axes, y, line)
    most = 14 if sheet.is_narrow else 30
    names = [one_line(x.name, most=most) if isinstance(x, Row) else f"by {x}" for x in lines]
    axes.set_yticks(range(len(lines)), names)
    for label, line in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_color(light("ink" if isinstance(line, Row) else "muted"))
    axes.set_ylim(len(lines) - 0.4, -0.6)
    ends = [v for row in rows for v in (row.reading.value, *row.baselines.values())]
    axes.set_xlim(0, 1.06 * max(ends))
    axes.set_xlabel("bits per byte")
    name_marks(sheet, axes, rows)


def lines_of(rows: Sequence[Row]) -> list[Row | str]:
    """Put the name of each group before its rows."""
    lines: list[Row | str] = []
    for group, own in groupby(rows, key=lambda row: row.group):
        lines += [group, *own]
    return lines


def name_marks(sheet: Sheet, axes: Axes, rows: Sequence[Row]) -> None:
    """Say which mark is which model."""
    handles = axes.plot([], [], "o", color=light("blue"), label="this model")
    controls = list(dict.fromkeys(name for row in rows for name in row.controls))[:N_CONTROLS]
    for i, name in enumerate(controls):
        handles += axes.plot([], [], "d", color=of_series(i + 2), label=one_line(name, most=30))
    for name in BASELINES:
        if any(name in row.baselines for row in rows):
            handles += axes.plot([], [], BASELINE_MARKS[name], label=name, **hollow())
    sheet.figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=3 if sheet.is_narrow else 7,
        fontsize=10,
        handletextpad=0.2,
        columnspacing=1.2,
        borderpad=0,
    )


def draw_row(axes: Axes, y: int, row: Row) -> None:
    """Draw a part's model, interval, baselines and controls."""
    values = [row.reading.value, *row.baselines.values()]
    dotted = {"color": light("muted"), "linewidth": 0.9, "linestyle": (0, (1, 2.2))}
    axes.plot([min(values), max(values)], [y, y], zorder=1, **dotted)
    for name, value in row.baselines.items():
        axes.plot(value, y, BASELINE_MARKS[name], zorder=2, **hollow())
    for i, reading in enumerate(list(row.controls.values())[:N_CONTROLS]):
        axes.plot(reading.value, y, "d", color=of_series(i + 2), markersize=6, zorder=3)
    if math.isfinite(row.reading.low) and math.isfinite(row.reading.high):
        ends = [row.reading.low, row.reading.high]
        axes.plot(ends, [y, y], color=light("blue"), linewidth=2.4, zorder=4)
    axes.plot(row.reading.value, y, "o", color=light("blue"), markersize=7, zorder=5)


def hollow() -> dict[str, Any]:
    """Draw baselines as hollow marks."""
    return {
        "markerfacecolor": light("paper"),
        "markeredgecolor": light("muted"),
        "markersize": 6,
        "linestyle": "none",
    }


def rows_table(rows: Sequence[Row]) -> Table:
    """Give all figures of all parts."""
    present = [name for name in BASELINES if any(name in row.baselines for row in rows)]
    controls = list(dict.fromkeys(name for row in rows for name in row.controls))
    names = ("bits/byte", "95%", "documents", *controls, *present)
    return Table(
        caption="Bits per byte of held-out text",
        columns=(Column("part"), Column("of"), *figures("", *names)[1:]),
        rows=[
            (
                one_line(row.name),
                row.group,
                fixed(row.reading.value, 3),
                span(row.reading.low, row.reading.high),
                count(row.reading.n_items) if row.reading.n_items else NOTHING,
                *(
                    fixed(row.controls[name].value, 3) if name in row.controls else NOTHING
                    for name in controls
                ),
                *(fixed(row.baselines.get(name, math.nan), 3) for name in present),
            )
            for row in rows
        ],
    )


def by_position(run: Run, result: Result | None) -> Figure | Missing:
    """Draw what a token costs by its place in the document."""
    title = "Loss by position in the document"
    found = positions_of(result) if result else {}
    if not found or result is None:
        return Missing(
            anchor=POSITIONS,
            title=title,
            why="There is no result of bits_per_byte that tells of positions.",
            command=evaluate_command(run, EVALUATION),
        )
    told = "; ".join(
        f"{one_line(name)} from {figure(own[0][1], 3)} to {figure(own[-1][1], 3)}"
        for name, own in found.items()
    )
    n_context = run.config.data.n_context if run.config else None
    return Figure(
        anchor=POSITIONS,
        title=title,
        caption=(
            "Stretches of positions double in length and are drawn at their upper end; long "
            "documents alone reach the last ones. With a model that uses its context tokens get "
            "cheaper to the right. The dotted line is the context in training."
        ),
        picture=picture(
            "positions",
            partial(draw_positions, found=found, n_context=n_context),
            title=title,
            description=f"Nats per token: {told}.",
            heights=(260, 260),
        ),
        table=Table(
            caption="Nats per token by position",
            columns=figures("source", *(count(x) for x, _ in max(found.values(), key=len))),
            rows=[
                (one_line(name), *pad([figure(y) for _, y in own], found))
                for name, own in found.items()
            ],
            is_folded=True,
        ),
    )


def draw_positions(
    sheet: Sheet, *, found: Mapping[str, Sequence[tuple[int, float]]], n_context: int | None
) -> None:
    """Draw a line for each source."""
    axes = sheet.figure.subplots()
    labels = []
    for i, (name, own) in enumerate(list(found.items())[:N_DRAWN]):
        x, y = zip(*own, strict=True)
        axes.plot(x, y, marker="o", markersize=4, color=of_series(i), linestyle=dashes_of(i))
        labels.append(Label(own[-1][1], name, of_series(i)))
    axes.set_xscale("log", base=2)
    write_thousands(axes.xaxis)
    axes.minorticks_off()
    mark_context(axes, n_context)
    axes.set(xlabel="position in the document, tokens")
    axes.set_title("Nats per token")
    label_ends(sheet, axes, labels)


def pad(cells: list[str], found: Mapping[str, Sequence[Any]]) -> list[str]:
    """Fill a row up to the longest."""
    return cells + [NOTHING] * (max(len(own) for own in found.values()) - len(cells))


def mark_context(axes: Axes, n_context: int | None) -> None:
    """Draw where the context of training ends."""
    if n_context:
        axes.axvline(n_context, color=light("muted"), linewidth=1, linestyle=(0, (1, 2)))


def positions_of(result: Result) -> dict[str, list[tuple[int, float]]]:
    """Read nats per token by the upper end of each stretch of positions, for each source."""
    found = {}
    for name, own in result.figures.get("sources", {}).items():
        stretches = own.get("nats_per_token_by_position", {})
        points = [(int(part.partition("-")[2]) + 1, number(stretches, part)) for part in stretches]
        if points := [(end, y) for end, y in points if math.isfinite(y)]:
            found[name] = sorted(points)
    return found


def language_gap(run: Run, result: Result | None) -> Table | Missing:
    """Show the gap between languages on translated twins."""
    found = result.figures.get("twins", {}) if result else {}
    if not found:
        return Missing(
            anchor=GAP,
            title="Gap between languages",
            why="No held-out documents are translations of each other, or bits_per_byte was not "
            "evaluated. On other text a gap says what was sampled, not what the model knows.",
            command=evaluate_command(run, EVALUATION),
        )
    return Table(
        anchor=GAP,
        caption="Gap between languages on translated twins: first language over second",
        columns=figures("languages", "pairs", "per byte", "95%", "per document", "bytes"),
        rows=[
            (
                one_line(name),
                count(number(own, "n_pairs")),
                figure(number(own, "gap_per_byte")),
                write_interval(own.get("gap_interval_95")),
                figure(number(own, "gap_per_document")),
                figure(number(own, "byte_ratio")),
            )
            for name, own in found.items()
        ],
    )


def write_interval(ends: Sequence[float | None] | None) -> str:
    """Write an interval as a result's figures hold it: null is no number."""
    low, high = (math.nan if end is None else end for end in ends or (None, None))
    return span(low, high)


def evaluate_command(run: Run, evaluation: str) -> str:
    """Say what takes a figure that is missing."""
    out = f"{run.run_dir}/evaluations/{evaluation}.json"
    return command("helix", "evaluate", evaluation, f"run_dir={run.run_dir}", f"out={out}")
