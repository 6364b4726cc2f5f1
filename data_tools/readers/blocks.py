"""Blocks: the paragraphs of a text, and their grouping into documents."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_tools.readers.rows import Row
from data_tools.readers.streams import MAX_LINE_CHARACTERS
from helix.data import DataError

DOCUMENT_BYTES = 4096  # a few hundred to a thousand tokens: several documents in a row of context
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f]")  # C0 but for tab and newline
BETWEEN_PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")


def clean_text(text: str) -> str:
    """Make line ends newlines and drop control characters, all but tab and newline."""
    return CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def group_blocks(
    blocks: Iterable[str], *, separator: str = "\n\n", document_bytes: int = DOCUMENT_BYTES
) -> Iterator[str]:
    """Join neighbouring blocks of text into documents of about `document_bytes`.

    A block longer than that is cut at a line end, else at a space, else where it must be.
    """
    group: list[str] = []
    n_bytes = 0
    for block in (part for whole in blocks for part in cut_block(whole, document_bytes)):
        n_block_bytes = len(block.encode())
        if group and n_bytes + n_block_bytes > document_bytes:
            yield separator.join(group)
            group, n_bytes = [], 0
        group.append(block)
        n_bytes += n_block_bytes + len(separator)
    if group:
        yield separator.join(group)


def cut_block(block: str, n_characters: int) -> Iterator[str]:
    """Cut a block into parts of at most `n_characters`."""
    parts, rest = cut_front(block, n_characters)
    yield from parts
    if rest:
        yield rest


def cut_front(block: str, n_characters: int) -> tuple[list[str], str]:
    """Cut parts off a block until at most `n_characters` of it remain."""
    parts: list[str] = []
    start = 0
    while len(block) - start > n_characters:
        end = start + n_characters
        cut = max(block.rfind("\n", start + 1, end), 0) or max(block.rfind(" ", start + 1, end), 0)
        cut = cut or end
        if part := block[start:cut].strip("\n "):
            parts.append(part)
        start = cut
        while start < len(block) and block[start] in "\n ":
            start += 1
    return parts, block[start:]


def read_txt(path: Path, characters: Iterable[str]) -> Iterator[tuple[int, Row]]:
    """Yield documents of about `DOCUMENT_BYTES` made of neighbouring paragraphs."""
    for number, text in enumerate(group_blocks(split_blocks(path, clean_pieces(characters)))):
        yield number, {"text": text}


def clean_pieces(characters: Iterable[str]) -> Iterator[str]:
    """Clean a text that comes in pieces, where a line's end may lie in two of them."""
    held = ""
    for piece in characters:
        text = held + piece
        held = "\r" if text.endswith("\r") else ""
        yield clean_text(text.removesuffix("\r"))
    yield clean_text(held)


def split_blocks(
    path: Path,
    pieces: Iterable[str],
    *,
    n_characters: int = DOCUMENT_BYTES,
    max_gap_characters: int = MAX_LINE_CHARACTERS,
) -> Iterator[str]:
    """Yield the paragraphs of a text that comes in pieces; one that is too long, in parts.

    The same as splitting the whole text at its blank lines and cutting each paragraph with
    `cut_block`, wherever the pieces end.
    """
    splitter = Splitter(n_characters)
    for piece in pieces:
        yield from filter(str.strip, splitter.add(piece))
        if len(splitter.gap) > max_gap_characters:
            raise DataError(
                f"{path}: {len(splitter.gap):,} spaces and tabs in a row are no text; remove them"
            )
    yield from filter(str.strip, splitter.finish())


class Splitter:
    """Splits a text into blocks while it comes.

    Attributes:
        begun: Of a paragraph, what is neither yielded nor in the gap.
        gap: A line's end with the spaces and tabs after it: the text's end as it is known, which
            another line's end would make the end of the paragraph.
    """

    def __init__(self, n_characters: int) -> None:
        self.n_characters = n_characters
        self.begun = ""
        self.gap = ""
        self.is_between = False  # paragraphs: white space of any kind is skipped
        self.skipped = "\n"  # characters that what is begun does not begin with

    def add(self, piece: str) -> Iterator[str]:
        """Take the text's next piece, yield the blocks that are complete by it."""
        if self.is_between:
            piece = piece.lstrip()
            if not piece:
                return
            self.is_between = False
        last, *others = BETWEEN_PARAGRAPHS.split(self.gap + piece)
        self.gap = ""
        if others:
            yield from self.end(last)
            *whole, last = others
            for paragraph in whole:
                yield from cut_block(paragraph, self.n_characters)
            self.is_between = not last
        yield from self.begin(last)

    def end(self, text: str) -> Iterator[str]:
        """Yield the paragraph that is begun, of which this is the end."""
        yield from cut_block(self.join(text), self.n_characters)
        self.begun = self.skipped = ""

    def begin(self, text: str) -> Iterator[str]:
        """Add to the paragraph that is begun; yield the parts of it that are to be cut off."""
        solid = text.rstrip(" \t")
        if solid.endswith("\n"):
            text, self.gap = solid[:-1], text[len(solid) - 1 :]
        parts, self.begun = cut_front(self.join(text), self.n_characters)
        if parts:
            self.skipped = "\n "
        yield from parts

    def join(self, text: str) -> str:
        """Join text to what is begun."""
        return self.begun + text if self.begun else text.lstrip(self.skipped)

    def finish(self) -> Iterator[str]:
        """Yield what is left at the text's end."""
        yield from self.end(self.gap.removesuffix("\n"))
