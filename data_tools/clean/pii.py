"""Personal data in texts: addresses and numbers that name one person, replaced by a mark.

What is replaced is what has a form that can be checked: e-mail and IPv4 addresses, IBANs (by their
check digits), card numbers (by Luhn's) and telephone numbers with an international prefix. Names
and streets have none and stay.
"""

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Literal

PiiMode = Literal["keep", "scrub"]

EMAIL = re.compile(r"\b[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
PHONE = re.compile(
    r"(?<![\w+])(?<!\d[ -])(?:\+|00)[1-9]\d{0,2}[ /.-]?(?:\(0?\d{1,5}\)|\d)(?:[ /.-]?\d){5,12}\b"
)
# where a number may end within a match: no card number's last group is shorter, and a row of single
# digits would pass Luhn's check at one of its many ends
GROUP_END = re.compile(r"(?<=\w{3})[ -]")


def scrub_pii(text: str) -> str:
    """Replace what names a person by <email>, <ip>, <iban>, <card> or <phone>."""
    if "@" in text:
        text = EMAIL.sub("<email>", text)
    text = replace_valid(IPV4, is_public, "<ip>", text)
    text = replace_valid(IBAN, is_iban, "<iban>", text)
    text = replace_valid(CARD, is_card, "<card>", text)
    return PHONE.sub("<phone>", text)


def replace_valid(
    pattern: re.Pattern[str], is_valid: Callable[[str], bool], mark: str, text: str
) -> str:
    """Replace by a mark what a pattern finds, as far as it passes its check."""
    parts: list[str] = []
    kept = position = 0
    while match := pattern.search(text, position):
        position = match.end()
        if end := valid_end(match, is_valid):
            parts += text[kept : match.start()], mark
            kept = position = end  # what follows may be the next one
    return "".join([*parts, text[kept:]])


def valid_end(match: re.Match[str], is_valid: Callable[[str], bool]) -> int | None:
    """Tell where the longest part that passes ends: a date or a BIC may follow a number."""
    cuts = [cut.start() for cut in GROUP_END.finditer(match.string, *match.span())]
    for end in [match.end(), *reversed(cuts)]:
        part = match.re.fullmatch(match.string, match.start(), end)
        if part and is_valid(part[0]):
            return end
    return None


def is_public(address: str) -> bool:
    """Tell whether an address could be somebody's: a version number or 192.168.0.1 is nobody's."""
    try:
        return ip_address(address).is_global
    except ValueError:
        return False


def is_iban(text: str) -> bool:
    """Check the digits of an IBAN (ISO 13616: the number modulo 97 is 1)."""
    compact = text.replace(" ", "")
    digits = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return int(digits) % 97 == 1


def is_card(text: str) -> bool:
    """Check the last digit of a card number (ISO/IEC 7812: Luhn's sum ends in 0)."""
    digits = [int(character) for character in text if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[::-2]) + sum(doubled)) % 10 == 0
