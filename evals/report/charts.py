"""Charts: one drawing becomes SVG that follows the page's colours, and PNG.

Every colour is drawn in its shade for light paper, and every one in the SVG is then replaced by the
CSS variable of its name; text stays text, in the page's own letters.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from evals.report.blocks import Picture
from evals.report.palette import COLOURS, light
from evals.report.words import one_line, plain

WIDE, NARROW = 720, 360  # CSS pixels; a point of matplotlib's is taken for one
PNG_DPI = 200
LABEL_GAP = 13  # points between the middles of two labels
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": light("rule"),
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": light("muted"),
    "axes.labelsize": 11,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.facecolor": "none",
    "axes.titlecolor": light("ink"),
    "axes.titlelocation": "left",
    "axes.titlesize": 11.5,
    "axes.titlepad": 8,
    "axes.xmargin": 0.015,
    "axes.formatter.useoffset": False,
    "figure.facecolor": light("paper"),
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "grid.color": light("rule"),
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "patch.edgecolor": light("paper"),
    "svg.fonttype": "none",
    "svg.hashsalt": "helix",  # the same drawing gives the same text
    "text.color": light("ink"),
    "text.parse_math": False,  # a dollar in a name is a dollar
    "xtick.color": light("muted"),
    "xtick.labelsize": 10.5,
    "xtick.major.size": 3,
    "ytick.color": light("muted"),
    "ytick.labelsize": 10.5,
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class Sheet:
    """An empty sheet for one drawing."""

    figure: Figure
    is_narrow: bool


Draw = Callable[[Sheet], None]


def picture(
    name: str, draw: Draw, *, title: str, description: str, heights: tuple[float, float]
) -> Picture:
    """Draw for a wide page, for a phone, and as PNG.

    Args:
        heights: Of the wide and the narrow drawing, in CSS pixels.
    """
    wide, png = render(draw, WIDE, heights[0], is_narrow=False)
    narrow, _ = render(draw, NARROW, heights[1], is_narrow=True, is_png_wanted=False)
    return Picture(
        name=name,
        wide=inline(wide, f"{name}-wide", title=title, description=description),
        narrow=inline(narrow, f"{name}-narrow", title=title, description=description),
        png=png,
    )


def render(
    draw: Draw, width: float, height: float, *, is_narrow: bool, is_png_wanted: bool = True
) -> tuple[bytes, bytes]:
    """Draw once; give SVG, and PNG where it is wanted."""
    with warnings.catch_warnings(), matplotlib.rc_context(rc=STYLE):
        # the page's own letters have what matplotlib's have not
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support")
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        FigureCanvasAgg(figure)
        draw(Sheet(figure, is_narrow))
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        if is_png_wanted:
            figure.savefig(png, format="png", dpi=PNG_DPI)
    return svg.getvalue(), png.getvalue()


def inline(svg: bytes, name: str, *, title: str, description: str) -> Markup:
    """Make a drawing part of a page: its ids its own, its colours the page's, with words."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]:
            parent.remove(child)  # a style here would hold for the whole page
    for element in root.iter():
        own_ids(element, name)
        own_style(element)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title")
    root.set("aria-describedby", f"{name}-description")
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{SVG}}}{tag}")
        element.set("id", f"{name}-{'description' if tag == 'desc' else tag}")
        element.text = plain(text)
        root.insert(position, element)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def own_ids(element: ElementTree.Element, name: str) -> None:
    """Keep the ids of a drawing apart from those of the others on the page."""
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key == f"{{{XLINK}}}href" and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
        elif "url(#" in value:
            element.set(key, value.replace("url(#", f"url(#{name}-"))


def own_style(element: ElementTree.Element) -> None:
    """Give an element the page's colours and letters."""
    style = element.get("style")
    if style is None:
        return
    for colour, shade in COLOURS.items():
        style = style.replace(shade.light, f"var(--{colour})")
    style = re.sub(r"font: (?:(\w+) )??(\d+(?:\.\d+)?px) [^;]*", font, style)
    element.set("style", style)


def font(match: re.Match[str]) -> str:
    """Keep a text's height and weight; the letters are the page's."""
    weight, height = match.groups()
    return f"font-size: {height}" + (f"; font-weight: {weight}" if weight else "")


@dataclass(frozen=True)
class Label:
    """A word beside the end of what it names."""

    y: float
    text: str
    colour: str


def label_ends(sheet: Sheet, axes: Axes, labels: Sequence[Label], *, x: float = 1.0) -> None:
    """Write labels right of the axes, as near to their ends as their number allows.

    Args:
        x: Where they begin, as a share of the axes' width.
    """
    if not labels:
        return
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    ordered = sorted(labels, key=lambda label: label.y)
    written = [
        axes.annotate(
            one_line(label.text, most=14 if sheet.is_narrow else 28),
            (x, label.y),
            (6, 0),
            color=label.colour,
            va="center",
            fontsize=10.5,
            annotation_clip=False,
            **place,
        )
        for label in ordered
    ]
    sheet.figure.draw_without_rendering()  # now it is known how high the axes are
    pixels = [axes.transData.transform((0, label.y))[1] for label in ordered]
    points = [pixel * 72 / sheet.figure.dpi for pixel in pixels]
    for text, spread, point in zip(written, spread_out(points, LABEL_GAP), points, strict=True):
        text.set_position((6, spread - point))


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """Move places apart until none is nearer to the next than `gap`, each group about its middle.

    Args:
        places: In rising order.
    """
    groups: list[tuple[float, int]] = []  # the middle and number of each
    for place in places:
        groups.append((place, 1))
        while len(groups) > 1:
            (low, n_low), (high, n_high) = groups[-2:]
            if high - low >= gap * (n_low + n_high) / 2:
                break
            middle = (low * n_low + high * n_high) / (n_low + n_high)
            groups[-2:] = [(middle, n_low + n_high)]
    return [middle + gap * (i - (n - 1) / 2) for middle, n in groups for i in range(n)]


def keep_few_ticks(axes: Axes, sheet: Sheet) -> None:
    """Leave room between the figures of the x axis."""
    axes.locator_params(axis="x", nbins=5 if sheet.is_narrow else 9, min_n_ticks=2)


def write_thousands(axis: Axis) -> None:
    """Write the figures of an axis with separators."""
    axis.set_major_formatter(StrMethodFormatter("{x:,.12g}"))
