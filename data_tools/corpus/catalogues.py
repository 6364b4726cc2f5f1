"""Translated strings: gettext's .mo files, which hold both languages, and Java's .properties."""

import hashlib
import re
import struct
from collections.abc import Iterator

from data_tools.corpus.markup import html_paragraphs
from data_tools.corpus.paragraphs import language_of
from helix.data import DataError

MESSAGE_CHARACTERS = 70  # shorter ones are labels of buttons
MESSAGES_PER_DOCUMENT = 12
PROPERTY_CHARACTERS = 60
ESCAPED_CHARACTER = re.compile(r"\\u([0-9a-fA-F]{4})")


def mo_messages(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the messages of a .mo file and their translations, the first form of plurals.

    Source: GNU gettext manual, "The Format of GNU MO Files".

    Raises:
        DataError: The file is not a .mo file, or ends before what it promises.
    """
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(data[:4])
    if order is None:
        raise DataError("a .mo file begins with another number; the package is damaged")
    try:
        _, n_messages, originals, translations = struct.unpack_from(order + "4I", data, 4)
        for number in range(n_messages):
            original = mo_string(data, order, originals + 8 * number)
            translation = mo_string(data, order, translations + 8 * number)
            if original:  # the empty one is the catalogue's header
                yield original.rpartition("\x04")[2], translation
    except (struct.error, UnicodeDecodeError) as error:
        raise DataError(f"a .mo file is damaged ({error})") from None


def mo_string(data: bytes, order: str, at: int) -> str:
    """Read a string of a .mo file by its entry in a table."""
    n_bytes, offset = struct.unpack_from(order + "2I", data, at)
    if offset + n_bytes > len(data):
        raise struct.error("a string ends behind the file")
    return data[offset : offset + n_bytes].split(b"\0")[0].decode()


def mo_documents(data: bytes) -> Iterator[tuple[str, str, list[str]]]:
    """Yield documents of long messages: number, language, paragraphs; both languages aligned.

    Messages are put in the order of their hashes, so that neighbours are not all of one dialog.
    """
    pairs = sorted(
        (
            (
                " ".join(html_paragraphs(english.encode())),
                " ".join(html_paragraphs(german.encode())),
            )
            for english, german in mo_messages(data)
            if min(len(english), len(german)) >= MESSAGE_CHARACTERS and english != german
        ),
        key=lambda pair: hashlib.sha256(pair[0].encode()).digest(),
    )
    pairs = [pair for pair in pairs if [language_of(text) for text in pair] == ["en", "de"]]
    for start in range(0, len(pairs), MESSAGES_PER_DOCUMENT):
        group = pairs[start : start + MESSAGES_PER_DOCUMENT]
        number = str(start // MESSAGES_PER_DOCUMENT)
        yield number, "en", [english for english, _ in group]
        yield number, "de", [german for _, german in group]


def property_documents(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield documents of the long values of a .properties file, grouped by a hash of their keys."""
    groups: dict[str, list[str]] = {}
    rows = (line.partition("=") for line in text.split("\n") if not line.startswith("#"))
    for key, _, value in sorted(rows):
        if len(value) > PROPERTY_CHARACTERS:
            plain = ESCAPED_CHARACTER.sub(lambda match: chr(int(match[1], 16)), value)
            group = hashlib.sha256(key.strip().encode()).hexdigest()[:2]
            groups.setdefault(group, []).append(plain.replace("\\n", " ").strip())
    yield from sorted(groups.items())
