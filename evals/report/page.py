"""The page: blocks to one HTML file without scripts, and without a word to any network."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from evals.contract import LEAST_ITEMS, prove_writable
from evals.report.blocks import Figure, Section
from evals.report.grid import SUMMED_UP
from evals.report.palette import style_sheet
from helix.config import ConfigError, write_whole

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that is written.

    Attributes:
        kicker: What kind of page it is, above the title.
        lead: One sentence under the title.
        facts: Names and figures at the head.
        colophon: What the page was made of.
    """

    kicker: str
    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    colophon: str


def write_page(page: Page, out: Path) -> list[Path]:
    """Write a page, and its figures as PNG into a folder beside it.

    Returns:
        The page and the pictures.

    Raises:
        ConfigError: They cannot be written.
    """
    drawn = [b for section in page.sections for b in section.blocks if isinstance(b, Figure)]
    folder, written = folder_of_pictures(out), [out]
    try:
        for figure in drawn:
            file = folder / f"{figure.picture.name}.png"
            partial = file.with_name(f".{file.name}.partial")
            partial.write_bytes(figure.picture.png)
            partial.replace(file)
            written.append(file)
        write_whole(out, render(page))
    except OSError as error:
        raise refusal(out, error) from None
    return written


def make_folder(out: Path) -> None:
    """Make the folder of a page's pictures, and so its own, before any work is done.

    Raises:
        ConfigError: That is not possible, or nothing can be written there.
    """
    prove_writable(out)
    try:
        folder_of_pictures(out).mkdir(exist_ok=True)
    except OSError as error:
        raise refusal(out, error) from None


def folder_of_pictures(out: Path) -> Path:
    """Say where a page's pictures lie."""
    return out.with_name(f"{out.stem}_figures")


def refusal(out: Path, error: OSError) -> ConfigError:
    """Say that a page cannot be written, and why."""
    return ConfigError(f"out={out}: cannot be written ({error.strerror})")


def render(page: Page) -> str:
    """Lay a page out; equal pages are equal texts."""
    numbers = number_figures(page.sections)
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            page=page,
            numbers=numbers,
            colours=Markup(style_sheet()),
            style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
            summed_up=SUMMED_UP,
            least_items=LEAST_ITEMS,
        )
    )


@cache
def environment() -> jinja2.Environment:
    """Make the engine: all that is not `Markup` of our own is escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def number_figures(sections: Sequence[Section]) -> dict[str, int]:
    """Number the figures of a page, by their anchors."""
    anchors = [b.anchor for section in sections for b in section.blocks if isinstance(b, Figure)]
    return {anchor: number for number, anchor in enumerate(anchors, start=1)}
