"""The sections on abilities: facts, recall by length, decoding, and whatever else was evaluated."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from evals.contract import Result
from evals.report.blocks import Column, Figure, Missing, Section, Table
from evals.report.charts import Axes, Sheet, picture, write_thousands
from evals.report.evidence import Evidence, name_of, shares_set
from evals.report.gather import Run
from evals.report.held_out import EVALUATION, evaluate_command, mark_context
from evals.report.palette import light, of_series
from evals.report.places import Point, by_hardness, is_share, read_points
from evals.report.profiles import Controls, draw_profile, points_table
from evals.report.series import number
from evals.report.words import NOTHING, anchor_of, command, count, figure, one_line

MARGINS = "fact-margins"
PROFILE = "fact-profile"
RECALL = "recall-by-length"
DECODING = "decoding-figures"
OTHER_COUNTS = ("/ among candidates", "/ whole")  # of tasks, drawn beside them
N_PANELS = 6
KNOWN = (EVALUATION, "facts", "recall", "decoding")
MARGIN_WORDS = ("margin nats per token", "margin nats")  # in the order of panels
DECODING_WORDS = ("repetition", "loop", "distinct 2", "distinct 3", "ended", "language")
FACT_WORDS = ("knows", "first token top 1", "first token top 10", "greedy begins right")
N_TOLD = 10  # figures that a picture's description names; the table has all

Curve = list[Point]


def facts_section(run: Run, evidence: Evidence) -> Section:
    """Show which facts the model knows, finds, and says."""
    result = evidence.own.get("facts")
    points = read_points(result) if result else []
    if result is None or not points:
        missing = not_evaluated(run, "facts", PROFILE, "Facts by category")
        return Section(anchor="facts", title="Facts", blocks=[missing])
    controls = controls_of(result, evidence)
    margins = [point for what in MARGIN_WORDS for point in points_of(points, what)]
    shares = [point for what in FACT_WORDS for point in points_of(points, what)]
    blocks: list[object] = []
    if shares:
        blocks.append(
            profile(
                PROFILE,
                "Fact profile: known, found, said",
                shares,
                "Shares of all items. Known: the right answer beats every wrong one, per token. "
                "Found: its first token is among the likeliest of the vocabulary. Said: greedy "
                "text begins with it. They are different abilities and never summed. Dotted: what "
                "guessing reaches.",
                chances=chances_of(result),
                controls=controls,
            )
        )
    if margins:
        blocks.append(
            profile(
                MARGINS,
                "By how much: margins of the right answer",
                margins,
                "NLL of the wrong answer less that of the right one, the prompt given and not "
                "charged. Right of 0 the right answer is likelier.",
                controls=controls,
            )
        )
    others = [point for point in points if point not in (*margins, *shares)]
    if others:
        caption = "Further figures of facts"
        table = points_table(others, caption=caption, is_folded=True, controls=controls)
        blocks.append(table)
    said = list_said(result)
    return Section(anchor="facts", title="Facts", blocks=[*blocks, said] if said.rows else blocks)


def controls_of(result: Result, evidence: Evidence) -> Controls:
    """Read other models' figures of the same items, by name."""
    return {
        name: {point.path: point.reading for point in read_points(own)}
        for name, own in comparable_others(result, evidence).items()
        if own.measures
    }


def points_of(points: Sequence[Point], what: str) -> list[Point]:
    """Choose the points of one figure, from easy to hard."""
    return by_hardness(point for point in points if point.what == what)


def chances_of(result: Result) -> dict[str, float]:
    """Give what guessing reaches, by panel: the mean over parts, which hardly differ."""
    found: dict[str, list[float]] = {}
    for own in result.figures.get("parts", {}).values():
        for hardness, chance in own.get("chance", {}).items():
            found.setdefault(f"knows, {hardness}", []).append(float(chance))
    return {panel: sum(values) / len(values) for panel, values in found.items()}


def list_said(result: Result) -> Table:
    """Give what greedy decoding wrote for some items."""
    rows = [
        (
            one_line(part),
            one_line(said.get("prompt", ""), most=90),
            one_line(said.get("answer", "")),
            one_line(said.get("text", ""), most=90),
        )
        for part, own in result.figures.get("samples", {}).items()
        for said in own
    ]
    names = ("part", "prompt", "right answer", "greedy text")
    return Table(
        caption="What greedy decoding wrote for the first items",
        columns=tuple(Column(name) for name in names),
        rows=rows,
        is_folded=True,
    )


def profile(
    anchor: str,
    title: str,
    points: Sequence[Point],
    caption: str,
    *,
    chances: Mapping[str, float] | None = None,
    controls: Controls | None = None,
) -> Figure:
    """Draw a profile by category, with lines for intervals."""
    hollow = f" Hollow marks: {one_line(next(iter(controls)), most=60)}" if controls else ""
    return Figure(
        anchor=anchor,
        title=title,
        caption=f"{caption} Lines are intervals of 95% over items drawn anew.{hollow}",
        picture=draw_profile(
            anchor,
            points,
            panel_of,
            title=title,
            description=tell_points(points),
            chances=chances,
            controls=controls,
        ),
        table=points_table(
            points, caption=f"{title}: the figures", is_folded=True, controls=controls
        ),
    )


def panel_of(point: Point) -> str:
    """Name the panel of a figure."""
    return f"{point.what}, {point.hardness}" if point.hardness else point.what


def tell_points(points: Sequence[Point]) -> str:
    """Tell the first figures in words."""
    told = "; ".join(
        f"{one_line(point.path, most=70)} {figure(point.reading.value, 3)}"
        for point in points[:N_TOLD]
    )
    rest = len(points) - N_TOLD
    return f"{told}." + (f" And {rest} more, in the table." if rest > 0 else "")


def recall_section(run: Run, evidence: Evidence) -> Section:
    """Show what the model finds again, by length of the text."""
    result = evidence.own.get("recall")
    curves = read_curves(result) if result else {}
    if result is None or not curves:
        missing = not_evaluated(run, "recall", RECALL, "Recall by length")
        return Section(anchor="recall", title="Recall", blocks=[missing])
    others = comparable_others(result, evidence)
    controls = {name: read_curves(own) for name, own in others.items() if own.measures}
    blocks: list[object] = [recall_figure(run, result, curves, controls)]
    parts = {name: own for name, own in curves.items() if name not in panels_of(curves)}
    if parts:
        caption = "Recall of the parts of tasks"
        blocks.append(points_table(flatten(parts), caption=caption, is_folded=True))
    if not controls:
        refused = ", ".join(others)
        why = f"That of {refused} is of other rows" if refused else "No result of one was given"
        blocks.append(no_control(run, why))
    return Section(anchor="recall", title="Recall", blocks=blocks)


def comparable_others(result: Result, evidence: Evidence) -> dict[str, Result]:
    """Give other models' results of an evaluation by name, with what may be compared alone."""
    named = evidence.others_of(result.evaluation)
    return {name: comparable(result, other) for name, other in named.items()}


def comparable(result: Result, other: Result) -> Result:
    """Keep of another model's result what was taken on the same set with the same settings."""
    kept = {
        name: measure
        for name, measure in other.measures.items()
        if name in result.measures and shares_set(result, other, name)
    }
    return replace(other, measures=kept)


def no_control(run: Run, why: str) -> Missing:
    """Say that nothing tells how hard the tasks are."""
    return Missing(
        anchor="recall-control",
        title="A control of plain attention",
        why="Hybrids are weak at recall; what they lose shows beside a model of plain attention on "
        f"the same rows. {why}.",
        command=command("helix", "report", f"run_dir={run.run_dir}", "results=FOLDER_WITH_BOTH"),
    )


def read_curves(result: Result) -> dict[str, Curve]:
    """Read shares by length, for each task and each part of one; whole tasks come first."""
    curves: dict[str, Curve] = {}
    for point in read_points(result):
        if point.length is not None and is_share(point):
            name = " ".join(part for part in (point.where, point.language) if part) or point.what
            curves.setdefault(name.replace("_", " "), []).append(point)
    return {
        name: sorted(own, key=lambda point: point.length or 0)
        for name, own in sorted(curves.items(), key=lambda curve: curve[0].count("/"))
    }


def whole_tasks(curves: Mapping[str, Curve]) -> list[str]:
    """Name the tasks that are no part of another."""
    return [name for name in curves if "/" not in name] or list(curves)


def panels_of(curves: Mapping[str, Curve]) -> list[str]:
    """Choose what is drawn: whole tasks, and the other ways of counting them."""
    second = [name for name in curves if name.endswith(OTHER_COUNTS)]
    return [*whole_tasks(curves), *second][:N_PANELS]


def flatten(curves: Mapping[str, Curve]) -> list[Point]:
    """Put the points of all curves behind each other."""
    return [point for own in curves.values() for point in own]


def chances_by_length(result: Result, name: str, curve: Curve) -> list[float]:
    """Give what guessing reaches where candidates are chosen from; NaN where it is not told."""
    if not name.endswith(OTHER_COUNTS[0]):
        return [math.nan] * len(curve)
    task = curve[0].path.split("/")[0]
    chances = result.figures.get("chance", {})
    return [number(chances, f"{task}/{point.length}") for point in curve]


def recall_figure(
    run: Run,
    result: Result,
    curves: Mapping[str, Curve],
    controls: Mapping[str, Mapping[str, Curve]],
) -> Figure:
    """Draw a panel for each task, the controls in it."""
    title = "Recall by length"
    n_context = context_of(run, result)
    drawn = {name: curves[name] for name in panels_of(curves)}
    n_columns = min(3, len(drawn))

    def draw(sheet: Sheet) -> None:
        columns = 1 if sheet.is_narrow else n_columns
        rows = -(-len(drawn) // columns)
        grid = sheet.figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, (task, own) in zip(grid.flat, drawn.items(), strict=False):
            theirs = {name: of[task] for name, of in controls.items() if task in of}
            draw_task(axes, own, theirs, n_context)
            draw_chance(axes, own, chances_by_length(result, task, own))
            axes.set_title(one_line(task.replace(" / ", ", "), most=40), fontsize=10.5)
        for axes in grid.flat[len(drawn) :]:
            axes.set_axis_off()
        if controls:
            name_models(sheet, grid.flat[0])

    control = " Dashed: the control." if controls else ""
    return Figure(
        anchor=RECALL,
        title=title,
        caption=(
            f"{name_of(result)}; share of answers that are right, bands are intervals of 95%. The "
            f"dotted upright is the context in training, the dotted level what guessing reaches."
            f"{control}"
        ),
        picture=picture(
            "recall",
            draw,
            title=title,
            description=tell_points(flatten(drawn)),
            heights=(50 + 190 * -(-len(drawn) // n_columns), 40 + 170 * len(drawn)),
        ),
        table=recall_table(drawn, controls),
    )


def context_of(run: Run, result: Result) -> int | None:
    """Give the tokens of context in training, as far as that is known."""
    told = number(result.figures, "n_context")
    if math.isfinite(told):
        return int(told)
    return run.config.data.n_context if run.config else None


def draw_chance(axes: Axes, curve: Curve, chances: Sequence[float]) -> None:
    """Draw what guessing reaches."""
    lengths = [float(point.length or 0) for point in curve]
    axes.plot(lengths, chances, color=light("muted"), linewidth=1.2, linestyle=(0, (1, 1.6)))


def name_models(sheet: Sheet, axes: Axes) -> None:
    """Say which line is which model."""
    sheet.figure.legend(
        handles=axes.get_legend_handles_labels()[0],
        loc="outside upper left",
        ncols=1 if sheet.is_narrow else 3,
        fontsize=10,
        borderpad=0,
    )


def draw_task(axes: Axes, own: Curve, controls: Mapping[str, Curve], n_context: int | None) -> None:
    """Draw one task over length."""
    for i, (name, curve) in enumerate({"this model": own, **controls}.items()):
        x = [float(point.length or 0) for point in curve]
        low, high = [p.reading.low for p in curve], [p.reading.high for p in curve]
        axes.fill_between(x, low, high, color=of_series(i), alpha=0.15, linewidth=0)
        axes.plot(
            *(x, [point.reading.value for point in curve]),
            color=of_series(i),
            label=one_line(name, most=30),
            linestyle=(0, (4, 2)) if i else "-",
            marker="d" if i else "o",
            markersize=4.5,
        )
    axes.set_xscale("log", base=2)
    write_thousands(axes.xaxis)
    axes.minorticks_off()
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("tokens")
    mark_context(axes, n_context)


def recall_table(curves: Mapping[str, Curve], controls: Mapping[str, Mapping[str, Curve]]) -> Table:
    """Give each task by length, the controls beneath."""
    named = {(task, "this model"): own for task, own in curves.items()}
    named |= {
        (task, name): of[task] for name, of in controls.items() for task in curves if task in of
    }
    lengths = sorted({point.length or 0 for own in named.values() for point in own})
    rows = []
    for (task, model), own in sorted(named.items()):
        by_length = {point.length: figure(point.reading.value, 3) for point in own}
        rows.append((one_line(task), model, *(by_length.get(n, NOTHING) for n in lengths)))
    return Table(
        caption="Recall by length in tokens",
        columns=(
            Column("task"),
            Column("model"),
            *(Column(count(n), is_number=True) for n in lengths),
        ),
        rows=rows,
    )


def decoding_section(run: Run, evidence: Evidence) -> Section:
    """Show how the model writes."""
    result = evidence.own.get("decoding")
    points = read_points(result) if result else []
    if not points:
        missing = not_evaluated(run, "decoding", DECODING, "Repetition, loops, language")
        return Section(anchor="decoding", title="Decoding", blocks=[missing])
    title = "Repetition, loops and language of what is written"
    shares = [p for what in DECODING_WORDS for p in points_of(points, what) if is_share(p)]
    shares = shares or [point for point in points if is_share(point)]
    if not shares:
        table = points_table(points, caption=title)
        return Section(anchor=DECODING, title="Decoding", blocks=[table])
    drawn = Figure(
        anchor=DECODING,
        title=title,
        caption=(
            "People repeat themselves, too: the author's own text after the same words is the aim, "
            "not 0 or 1. Lines are intervals of 95% over prompts drawn anew."
        ),
        picture=draw_profile(
            "decoding", shares, panel_of, title=title, description=tell_points(shares)
        ),
        table=points_table(points, caption="All figures of decoding", is_folded=True),
    )
    return Section(anchor="decoding", title="Decoding", blocks=[drawn])


def other_sections(evidence: Evidence) -> list[Section]:
    """Show what else was evaluated, as it is."""
    sections = []
    for name, result in evidence.own.items():
        if name in KNOWN:
            continue
        table = points_table(read_points(result), caption=f"All figures of {one_line(name)}")
        section = Section(
            anchor=f"evaluation-{anchor_of(name)}", title=one_line(name), blocks=[table]
        )
        sections.append(section)
    return sections


def not_evaluated(run: Run, evaluation: str, anchor: str, title: str) -> Missing:
    """Say that an evaluation was not made."""
    return Missing(
        anchor=anchor,
        title=title,
        why=f"There is no result of {evaluation} for this run.",
        command=evaluate_command(run, evaluation),
    )


def lowest(points: Sequence[Point]) -> float:
    """Give the lowest cautious figure; NaN where there is none."""
    ends = [point.reading.worse_end for point in points]
    return min((end for end in ends if math.isfinite(end)), default=math.nan)
