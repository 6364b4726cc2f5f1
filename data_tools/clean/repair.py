"""Repair: mojibake, control characters and lines of boilerplate.

Nothing is normalised, NFC least of all: the tokenizer promises to give every text back as it was
(identity normalisation), so composed and decomposed letters are what the author wrote, and a model
that never saw the decomposed form could not read it. Only what is broken is mended.
"""

import re

# The first characters of UTF-8 that was read as Latin-1 or Windows-1252. `in` costs a microsecond;
# ftfy's own search, which decides, costs a thousand.
MOJIBAKE_SIGNS = ("Ã", "Â", "â€", "Å", "Ä", "ð\x9f", "ðŸ", "ï»", "ï¿", "Ð", "Ñ")
SECOND_BYTE = re.compile(  # a sign is mojibake only where a second byte of UTF-8 follows it
    r"[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc"
    r"\u2013\u2014\u2018-\u201a\u201c-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122]"
)
# C0 but for tab and newline, DEL and C1; zero-width space and no-break space, which are no text.
# Joiners (U+200C, U+200D) and marks of direction stay: Persian, emoji and Hebrew are spelt by them.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\ufeff]")
SOFT_HYPHEN = "\u00ad"  # a place where a line may be broken: it cuts words in two for a tokenizer

# C4's and FineWeb's policy phrases (Raffel et al. 2019, arXiv:1910.10683, section 2.2; datatrove's
# c4_filters.py, POLICY_SUBSTRINGS), the German ones, and what else stands around a web page's text.
# Lower case.
BOILERPLATE_PHRASES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
    "all rights reserved",
    "skip to content",
    "enable javascript",
    "javascript is disabled",
    "nutzungsbedingungen",
    "datenschutzerkl",
    "verwendet cookies",
    "verwenden cookies",
    "verwendung von cookies",
    "alle rechte vorbehalten",
    "zum inhalt springen",
    "javascript aktivieren",
    "verfügbare sprachen:",
    "available languages:",
)
# What they have in common: a text without these holds no phrase
BOILERPLATE_ROOTS = (
    "cookie",
    "privacy p",
    "terms of use",
    "reserved",
    "skip to c",
    "javascript",
    "nutzungsb",
    "datenschutze",
    "vorbehalten",
    "zum inhalt s",
    "available languages",
    "verfügbare sprachen",
)
BOILERPLATE_LINE_CHARACTERS = 200  # a longer line says something about them


def repair_encoding(text: str) -> str:
    """Turn UTF-8 that was read as another encoding back into itself; leave all else as it is."""
    if text.isascii() or not any(sign in text for sign in MOJIBAKE_SIGNS):
        return text
    if SECOND_BYTE.search(text) is None:
        return text
    from data_tools.clean.extras import import_extra

    ftfy = import_extra("ftfy", needed_for="encoding repair")
    return "\n".join(ftfy.fix_encoding(line) for line in text.split("\n"))


def remove_controls(text: str) -> str:
    """Drop characters that steer a terminal or a line break and are no text."""
    if text.isascii() and text.isprintable():
        return text
    return CONTROLS.sub("", text).replace(SOFT_HYPHEN, "")


def remove_boilerplate(text: str) -> str:
    """Drop short lines about cookies, policies, rights and the choice of a language."""
    lowered = text.lower()
    if not any([root in lowered for root in BOILERPLATE_ROOTS]):  # noqa: C419, a list is faster
        return text
    return "\n".join(line for line in text.split("\n") if not is_boilerplate(line))


def is_boilerplate(line: str) -> bool:
    """Tell whether a line is short and holds a phrase of boilerplate."""
    if len(line) > BOILERPLATE_LINE_CHARACTERS:
        return False
    lowered = line.lower()
    return any(phrase in lowered for phrase in BOILERPLATE_PHRASES)
