"""Profiles: figures by category, one panel for each kind of figure, one colour a language."""

import math
from collections.abc import Callable, Mapping, Sequence

from evals.report.blocks import Column, Picture, Table, figures
from evals.report.charts import Axes, Sheet, picture
from evals.report.evidence import Reading
from evals.report.palette import light, of_series
from evals.report.places import Point, in_order, is_share
from evals.report.words import NOTHING, count, one_line, span

N_PANELS = 6
N_ROWS = 24
MARKS = ("o", "D", "s", "^", "v", "p")

KeyOf = Callable[[Point], str]
Controls = Mapping[str, Mapping[str, Reading]]  # of other models, by name and a measure's path


def draw_profile(
    name: str,
    points: Sequence[Point],
    panel_of: KeyOf,
    *,
    title: str,
    description: str,
    chances: Mapping[str, float] | None = None,
    controls: Controls | None = None,
) -> Picture:
    """Draw points with their intervals: a panel for each key, a line for each category.

    Args:
        points: Panels, lines and colours stand in the order in which these name them.
        chances: Panel to what guessing reaches, drawn as a dotted line.
        controls: The first is drawn, as hollow marks.
    """
    control = next(iter((controls or {}).values()), {})
    panels = in_order(panel_of(point) for point in points)[:N_PANELS]
    rows = in_order(point.where for point in points)[:N_ROWS]
    languages = in_order(point.language for point in points)

    def draw(sheet: Sheet) -> None:
        n_columns = 1 if sheet.is_narrow else min(3, len(panels))
        n_lines = -(-len(panels) // n_columns)
        grid = sheet.figure.subplots(n_lines, n_columns, squeeze=False, sharey=True)
        for axes, panel in zip(grid.flat, panels, strict=False):
            own = [point for point in points if panel_of(point) == panel]
            alike = [point for point in points if point.reading.unit == own[0].reading.unit]
            draw_panel(sheet, axes, own, rows, languages, control)
            set_limits(axes, alike, control)
            if chances and panel in chances:
                style = {"linewidth": 1.2, "linestyle": (0, (1, 1.6))}
                axes.axvline(chances[panel], color=light("muted"), **style)
            axes.set_title(one_line(panel, most=34))
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        name_languages(sheet, grid.flat[0], languages)

    n_columns = min(3, len(panels))
    panel_height = 62 + 15 * len(rows) * max(len(languages), 1)
    return picture(
        name,
        draw,
        title=title,
        description=description,
        heights=(
            40 + panel_height * -(-len(panels) // n_columns),
            50 + panel_height * len(panels),
        ),
    )


def draw_panel(
    sheet: Sheet,
    axes: Axes,
    points: Sequence[Point],
    rows: Sequence[str],
    languages: Sequence[str],
    control: Mapping[str, Reading],
) -> None:
    """Draw one panel."""
    spread = 0.56 / max(len(languages), 1)
    for point in points:
        if point.where not in rows:
            continue
        number = languages.index(point.language)
        y = rows.index(point.where) + spread * (number - (len(languages) - 1) / 2)
        reading, colour = point.reading, of_series(number)
        if math.isfinite(reading.low) and math.isfinite(reading.high):
            axes.plot([reading.low, reading.high], [y, y], color=colour, linewidth=2)
        mark = MARKS[number % len(MARKS)]
        if point.path in control:
            hollow = {"markerfacecolor": "none", "markersize": 7.5, "markeredgewidth": 1.2}
            axes.plot(control[point.path].value, y, mark, color=colour, **hollow)
        axes.plot(reading.value, y, mark, color=colour, markersize=5.5)
    most = 16 if sheet.is_narrow else 22
    axes.set_yticks(range(len(rows)), [one_line(row, most=most) or "all" for row in rows])
    axes.tick_params(axis="y", labelcolor=light("ink"))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.set_xlabel(one_line(points[0].reading.unit, most=36))


def set_limits(axes: Axes, alike: Sequence[Point], control: Mapping[str, Reading]) -> None:
    """Give panels of one unit one axis."""
    if all(is_share(point) for point in alike):
        axes.set_xlim(-0.03, 1.03)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        return
    readings = [point.reading for point in alike]
    readings += [control[point.path] for point in alike if point.path in control]
    ends = [end for r in readings for end in (r.low, r.high, r.value) if math.isfinite(end)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    margin = 0.04 * (high - low) or 1.0  # where all are 0, or no number
    axes.set_xlim(low - margin, high + margin)
    axes.locator_params(axis="x", nbins=5)
    axes.axvline(0, color=light("muted"), linewidth=1)


def name_languages(sheet: Sheet, axes: Axes, languages: Sequence[str]) -> None:
    """Say which colour is which language."""
    if languages == [""]:
        return
    handles = [
        axes.plot([], [], MARKS[i % len(MARKS)], color=of_series(i), label=language or "all")[0]
        for i, language in enumerate(languages)
    ]
    sheet.figure.legend(
        handles=handles, loc="outside upper left", ncols=6, fontsize=10, borderpad=0
    )


def points_table(
    points: Sequence[Point],
    *,
    caption: str,
    is_folded: bool = False,
    controls: Controls | None = None,
) -> Table:
    """Give points with their intervals, and the controls' values beside them."""
    others = controls or {}
    names = ("value", "95%", "items", *(one_line(name, most=40) for name in others))
    return Table(
        caption=caption,
        columns=(Column("figure"), Column("unit"), *figures("", *names)[1:]),
        rows=[
            (
                one_line(point.path, most=80),
                one_line(point.reading.unit, most=36),
                str(point.reading),
                span(point.reading.low, point.reading.high),
                count(point.reading.n_items),
                *(
                    str(own[point.path]) if point.path in own else NOTHING
                    for own in others.values()
                ),
            )
            for point in points
        ],
        is_folded=is_folded,
    )
