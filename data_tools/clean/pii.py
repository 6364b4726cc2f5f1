"""Personal data in texts: addresses and numbers that name one person, replaced by a mark.

What is replaced is what has a form that can be checked: e-mail and IPv4 addresses, IBANs (by their
check digits), card numbers (by Luhn's) and telephone numbers with an international prefix. Names
and streets have none and stay.
"""

import re
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


def scrub_pii(text: str) -> str:
    """Replace what names a person by <email>, <ip>, <iban>, <card> or <phone>."""
    if "@" in text:
        text = EMAIL.sub("<email>", text)
    text = IPV4.sub(lambda match: "<ip>" if is_public(match[0]) else match[0], text)
    text = IBAN.sub(lambda match: "<iban>" if is_iban(match[0]) else match[0], text)
    text = CARD.sub(lambda match: "<card>" if is_card(match[0]) else match[0], text)
    return PHONE.sub("<phone>", text)


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
