"""Paragraphs of HTML, Mallard and DocBook, by the real parser of lxml."""

import bz2
import importlib
import re
from collections.abc import Iterator
from typing import Any

from data_tools.corpus.paragraphs import one_line
from helix.data import DataError

NOT_PROSE = """
    script style head nav svg pre programlisting screen textarea select button form footer
    info comment math object
"""
DROPPED = frozenset(NOT_PROSE.split())
BLOCK_TAGS = """
    article aside blockquote body br caption center chapter dd div dl dt entry example
    figcaption figure h1 h2 h3 h4 h5 h6 header hr html item li list listitem main media note
    ol p page para refsect1 refsect2 row sect1 sect2 sect3 sect4 section simpara steps
    subtitle synopsis table tbody td term terms tfoot th thead title tr ul variablelist
    varlistentry warning
"""
BLOCKS = frozenset(BLOCK_TAGS.split())
XML_ENCODING = re.compile(rb"^\s*<\?xml[^>]*\?>")
KDE_PAGE = re.compile(r'<FILENAME filename="([^"]+)">')


def decode(data: bytes) -> str:
    """Decode UTF-8, else Latin-1: what the packages of Debian 12 hold."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def html_paragraphs(data: bytes) -> list[str]:
    """List the paragraphs of a page of HTML, however broken; code and navigation are left out."""
    return tree_paragraphs(parse(data, is_html=True))


def xml_paragraphs(data: bytes) -> list[str]:
    """List the paragraphs of Mallard or DocBook. Entities that a file declares are not read."""
    return tree_paragraphs(parse(data, is_html=False))


def kde_pages(data: bytes) -> Iterator[tuple[str, list[str]]]:
    """Yield the pages of a KDE handbook (index.cache.bz2) by the names of their files."""
    pieces = KDE_PAGE.split(decode(bz2.decompress(data)))
    for name, page in zip(pieces[1::2], pieces[2::2], strict=True):
        yield name, html_paragraphs(page.encode())


def parse(data: bytes, *, is_html: bool) -> Any:
    """Parse markup into a tree, or None where there is no element in it."""
    try:
        etree: Any = importlib.import_module("lxml.etree")
    except ImportError:
        raise DataError(
            "lxml reads the pages of the corpus and is not installed; run: pip install -e '.[data]'"
        ) from None
    data = XML_ENCODING.sub(b"", decode(data).encode())
    if not data.strip():
        return None
    if is_html:
        parser = etree.HTMLParser(encoding="utf-8", no_network=True)
    else:
        parser = etree.XMLParser(
            encoding="utf-8", recover=True, no_network=True, resolve_entities=False
        )
    try:
        return etree.fromstring(data, parser)
    except etree.XMLSyntaxError:
        return None


def tree_paragraphs(root: Any) -> list[str]:
    """List the paragraphs under an element."""
    if root is None:
        return []
    pieces: list[str | None] = []
    collect(root, pieces)
    paragraphs: list[str] = []
    line: list[str] = []
    for piece in [*pieces, None]:
        if piece is not None:
            line.append(piece)
        elif line:
            paragraphs.append(one_line("".join(line)))
            line = []
    return [paragraph for paragraph in paragraphs if paragraph]


def collect(element: Any, pieces: list[str | None]) -> None:
    """Add the text under an element; None where a block begins or ends."""
    tag = element.tag.rpartition("}")[2].lower() if isinstance(element.tag, str) else None
    if tag is None or tag in DROPPED:  # a comment, or no prose
        pieces.append(None)
        return
    is_block = tag in BLOCKS
    if is_block:
        pieces.append(None)
    if element.text:
        pieces.append(element.text)
    for child in element:
        collect(child, pieces)
        if child.tail:
            pieces.append(child.tail)
    if is_block:
        pieces.append(None)
