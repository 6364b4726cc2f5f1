"""Texts that packages carry in formats of their own: JSON, plain books, lessons, PDF."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

from data_tools.corpus.markup import html_paragraphs
from data_tools.corpus.paragraphs import one_line
from helix.data import DataError

BLANK_LINE = re.compile(r"\n\s*\n")
LEAST_CHARACTERS = 30
PDF_CHARACTERS = 60
HYPHENATED = re.compile(r"(\w)-\n([a-zäöüß])")
COLOBOT_ELEMENT = re.compile(r"\\(?:button|key|image) [^;\n]*;")
COLOBOT_MARK = re.compile(r"\\[a-z]+;?")


def json_paragraphs(text: str) -> list[str]:
    """List the long strings of a JSON file, markup taken out, in the order of the file."""
    found = (html_paragraphs(value.encode()) for value in strings_of(json.loads(text)))
    return [" ".join(paragraphs) for paragraphs in found if paragraphs]


def strings_of(value: Any) -> Iterator[str]:
    """Yield the strings in a JSON value that are longer than a label."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from strings_of(item)
    elif isinstance(value, str) and len(value) > LEAST_CHARACTERS:
        yield value


def book_paragraphs(text: str) -> list[str]:
    """List the paragraphs of plain text."""
    return [one_line(paragraph) for paragraph in BLANK_LINE.split(text)]


def colobot_lines(text: str) -> list[str]:
    """List the lines of a lesson of Colobot without its marks."""
    plain = COLOBOT_MARK.sub("", COLOBOT_ELEMENT.sub(" ", text))
    return [one_line(line) for line in plain.split("\n")]


def pdf_paragraphs(data: bytes) -> list[str]:
    """List the long paragraphs that pdftotext finds; words cut at a line's end are joined."""
    command = ["pdftotext", "-nopgbrk", "-enc", "UTF-8", "-", "-"]
    try:
        done = subprocess.run(command, input=data, capture_output=True, check=False)
    except FileNotFoundError:
        raise DataError("pdftotext is not installed; install the package poppler-utils") from None
    text = HYPHENATED.sub(r"\1\2", done.stdout.decode("utf-8", errors="replace"))
    return [text for text in book_paragraphs(text) if len(text) > PDF_CHARACTERS]
