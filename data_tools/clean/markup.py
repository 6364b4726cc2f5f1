"""Markup: HTML pages to the text that a reader sees, by trafilatura.

A manual may be about HTML and show it. So `auto` strips only a text that begins as a page does, or
of which a good part is tags that make paragraphs.
"""

import re
from typing import Literal

HtmlMode = Literal["auto", "strip", "keep"]
PAGE_START = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype\s+html|html|head|body)\b", re.I)
TAG = re.compile(  # by name: <Directory "/www"> is Apache's configuration, <key> a placeholder
    r"</?(?:a|article|b|body|br|button|center|code|div|em|font|footer|form|h[1-6]|head|header|hr"
    r"|html|i|iframe|img|input|li|link|main|meta|nav|ol|option|p|pre|script|section|select|span"
    r"|strong|style|table|tbody|td|th|thead|title|tr|u|ul)(?:\s[^<>]*)?/?>",
    re.I,
)
BLOCK_END = re.compile(r"</(?:p|div|li|td|table|body|span|h[1-6])>", re.I)
MIN_TAG_SHARE = 0.05  # of the characters; takes no document of the reference corpus for a page
MIN_BLOCK_ENDS = 3


def tag_characters(text: str) -> int:
    """Count the characters of HTML tags."""
    return sum(map(len, TAG.findall(text))) if "<" in text and ">" in text else 0


def is_page(text: str) -> bool:
    """Tell whether a text is HTML, and not a text that mentions it."""
    if "</" not in text:
        return False
    if PAGE_START.match(text):
        return True
    n_ends = len(BLOCK_END.findall(text))
    return n_ends >= MIN_BLOCK_ENDS and tag_characters(text) > MIN_TAG_SHARE * len(text)


def strip_markup(text: str, mode: HtmlMode) -> str:
    """Give the text of a page; empty where trafilatura finds none. Other text stays as it is."""
    if mode == "keep" or (mode == "auto" and not is_page(text)):
        return text
    if mode == "strip" and TAG.search(text) is None:
        return text
    from data_tools.clean.extras import import_extra

    trafilatura = import_extra("trafilatura", needed_for="HTML")
    page = text if PAGE_START.match(text) else f"<html><body>{text}</body></html>"
    return trafilatura.extract(page, include_comments=False, favor_recall=True) or ""
