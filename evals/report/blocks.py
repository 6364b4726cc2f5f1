"""Blocks: what a page is made of. They hold plain text; the template escapes all of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Column:
    """A column's head, and whether its cells are figures."""

    name: str
    is_number: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; its first column names the rows.

    Attributes:
        is_folded: Shown when asked for.
        is_dense: In smaller letters.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[str]]
    is_folded: bool = False
    is_dense: bool = False
    anchor: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawing for a wide page and one for a phone, and the same as PNG.

    Attributes:
        name: Of the PNG, without its ending.
    """

    name: str
    wide: Markup
    narrow: Markup
    png: bytes


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture with what it says in words and in figures."""

    kind: ClassVar[str] = "figure"
    anchor: str
    title: str
    caption: str
    picture: Picture
    table: Table


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What was not measured, and the command that measures it."""

    kind: ClassVar[str] = "missing"
    anchor: str
    title: str
    why: str
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names and what they are."""

    kind: ClassVar[str] = "facts"
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    kind: ClassVar[str] = "prose"
    text: str


@dataclass(frozen=True, kw_only=True)
class Notes:
    """Sentences that a reader must know; `tone` is "beware" or "plain"."""

    kind: ClassVar[str] = "notes"
    title: str
    lines: Sequence[str]
    tone: str = "beware"


@dataclass(frozen=True, kw_only=True)
class Code:
    """Text as it stands in a file, shown when asked for unless it is short."""

    kind: ClassVar[str] = "code"
    title: str
    text: str
    is_folded: bool = True


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a model wrote.

    Attributes:
        origin: Where it is from and how it was drawn.
    """

    kind: ClassVar[str] = "sample"
    origin: str
    prompt: str
    text: str
    language: str = ""


Block = Table | Figure | Missing | Facts | Prose | Notes | Code | Sample


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page, with an anchor of its own."""

    anchor: str
    title: str
    blocks: Sequence[object]


def figures(*names: str) -> tuple[Column, ...]:
    """Make columns of which the first names the row, and the others hold figures."""
    first, *rest = names
    return (Column(first), *(Column(name, is_number=True) for name in rest))
