r"""Prose of manual pages: macros of man(7) and mdoc(7) and escapes of groff(7) go, words stay.

Code (.EX, .nf), equations and macro definitions are left out; a row of a table is a paragraph.
Source: groff_man(7), groff_char(7), mdoc(7), tbl(1).
"""
# ruff: noqa: RUF001  (the table of characters holds quotes and dashes on purpose)

import re

from data_tools.corpus.paragraphs import one_line

SKIPPED = {"EX": "EE", "nf": "fi", "EQ": "EN", "PS": "PE", "Bd": "Ed", "ig": "."}
SKIPPED |= {"de": ".", "de1": ".", "am": "."}
FILLED_AGAIN = frozenset({"nf", "EX"})  # a heading ends these, as man(7) does
HEADINGS = frozenset({"SH", "SS", "Sh", "Ss"})
BREAKS = frozenset(
    {"PP", "P", "LP", "Pp", "TP", "TQ", "IP", "HP", "RS", "RE", "sp", "br", "It", "Bl", "El", "Lp"}
)
SPACED = frozenset(
    {
        "B",
        "I",
        "SM",
        "SB",
        "Nm",
        "Ar",
        "Fl",
        "Em",
        "Sy",
        "Pa",
        "Dq",
        "Nd",
        "Li",
        "Cm",
        "Va",
        "Fn",
        "Ql",
        "Sq",
        "Ic",
        "Ev",
        "Dv",
        "Er",
        "Tn",
        "Ns",
    }
)
JOINED = frozenset({"BR", "RB", "IR", "RI", "BI", "IB", "MR", "Xr"})
CONTROL_LINE = re.compile(r"[.']\s*([A-Za-z0-9.]{1,4}|\\\")?[ \t]*(.*)")
ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|((?:\\.|\S)+)')
ESCAPE = re.compile(
    r"""\\(?:
      ["\#].*                                    # comment
    | f(?:\[[^]]*\]|\(..|.)                      # font
    | s(?:[+-]?\d{1,2}|\[[^]]*\]|\([+-]?..)      # point size
    | m(?:\[[^]]*\]|\(..|.)                      # colour
    | [hvwNlLoZDbAXHSRx]'[^']*'                  # motion, drawing, ...
    | C'(?P<quoted>[^']*)'
    | \*?\((?P<two>..)
    | \*?\[(?P<long>[^]]*)\]
    | \*(?P<one>.)
    | [nk](?:\[[^]]*\]|\(..|.)                   # registers
    | (?P<single>.|$)
    )""",
    re.VERBOSE,
)
SINGLE = {"-": "-", " ": " ", "~": " ", "0": " ", "t": " ", "e": "\\", "\\": "\\", "'": "'"}
SINGLE |= {"`": "`", "(": "(", "[": "["}
SPECIAL = {
    "lq": "“", "rq": "”", "Bq": "„", "bq": "‚", "oq": "‘", "cq": "’", "aq": "'", "dq": '"',
    "Aq": "'", "Fo": "«", "Fc": "»", "fo": "‹", "fc": "›", "em": "—", "en": "–", "hy": "-",
    "mi": "−", "bu": "•", "co": "©", "rg": "®", "tm": "™", "ha": "^", "ti": "~", "ga": "`",
    "rs": "\\", "lB": "[", "rB": "]", "lC": "{", "rC": "}", "la": "⟨", "ra": "⟩", "ba": "|",
    "at": "@", "sh": "#", "Do": "$", "sl": "/", "<=": "≤", ">=": "≥", "!=": "≠", "==": "≡",
    "mu": "×", "+-": "±", "->": "→", "<-": "←", "de": "°", "12": "½", "14": "¼", "34": "¾",
    "S2": "²", "S3": "³", "*m": "µ", "sc": "§", "ss": "ß", ":a": "ä", ":o": "ö", ":u": "ü",
    ":A": "Ä", ":O": "Ö", ":U": "Ü", "'e": "é", "`e": "è", "'a": "á", "`a": "à", ",c": "ç",
    "~n": "ñ", "/o": "ø", "oa": "å", "Eu": "€", "eu": "€", "Po": "£", "tf": "∴", "if": "∞",
    "pl": "+",
    "Tm": "™", "R": "®", "f/": "⁄",
}  # fmt: skip
TABLE = re.compile(r"^\.TS[^\n]*\n(.*?)^\.TE[^\n]*$", re.MULTILINE | re.DOTALL)
TABLE_BLOCK = re.compile(r"T\{\n(.*?)\nT\}", re.DOTALL)
TABLE_TAB = re.compile(r"tab *\((.)\)")
TABLE_FORMAT = re.compile(
    r"(?:^\.T&\n)?(?:^[^\n]*;[ \t]*\n)?(?:^[^.\n][^\n]*\n)*?^[^\n]*\.[ \t]*\n", re.MULTILINE
)
CODE_POINT = re.compile(r"u([0-9A-F]{4,6})")


def page_paragraphs(text: str) -> list[str]:
    """List the headings and paragraphs of a manual page; none for one that only points away."""
    if text.startswith(".so "):
        return []
    paragraphs: list[list[str]] = [[]]
    skipped = ""
    for line in TABLE.sub(unroll_table, text).split("\n"):
        macro, rest = split_macro(line)
        if skipped:
            is_heading = macro in HEADINGS and skipped in FILLED_AGAIN
            if not is_heading and macro != SKIPPED[skipped]:
                continue
            skipped = ""
        if macro in SKIPPED:
            skipped = macro
            paragraphs.append([])
        elif macro in HEADINGS:
            paragraphs += [[join_arguments(rest, " ")], []]
        elif macro in BREAKS or not line.strip():
            paragraphs.append([tag_of(rest)] if macro == "IP" else [])
        else:
            paragraphs[-1].append(words_of(macro, rest))
    plain = (one_line(replace_escapes(" ".join(lines))) for lines in paragraphs)
    return [paragraph for paragraph in plain if paragraph]


def unroll_table(match: re.Match[str]) -> str:
    """Give the rows of a table as paragraphs; lines that say how it looks go."""
    body = match[1]
    tab = TABLE_TAB.search(body)
    rows = TABLE_FORMAT.sub("", body, count=1)
    rows = TABLE_BLOCK.sub(lambda block: block[1].replace("\n", " "), rows)
    lines = [line.replace(tab[1] if tab else "\t", " ") for line in rows.split("\n")]
    return "\n".join(f".PP\n{line}" for line in lines if line.strip(" _=") and line[0] not in ".'")


def tag_of(rest: str) -> str:
    """Give the tag of an indented paragraph unless it is a bullet."""
    match = ARGUMENT.match(rest)
    tag = (match[1] or match[2] or "") if match else ""
    return tag if any(character.isalnum() for character in replace_escapes(tag)) else ""


def split_macro(line: str) -> tuple[str, str]:
    """Split a control line into macro and arguments; text has no macro."""
    if not line.startswith((".", "'")):
        return "", line
    match = CONTROL_LINE.match(line)
    return (match[1] or "none", match[2]) if match else ("none", "")


def words_of(macro: str, rest: str) -> str:
    """Give what a line shows within a paragraph."""
    if not macro:
        return rest
    if macro in SPACED:
        return join_arguments(rest, " ")
    return join_arguments(rest, "") if macro in JOINED else ""


def join_arguments(rest: str, separator: str) -> str:
    """Join the arguments of a macro; quotes hold words together."""
    return separator.join(
        match[2] if match[2] is not None else match[1].replace('""', '"')
        for match in ARGUMENT.finditer(rest)
    )


def replace_escapes(text: str) -> str:
    """Replace groff's escapes by the characters that they stand for."""
    return ESCAPE.sub(character_of, text) if "\\" in text else text


def character_of(match: re.Match[str]) -> str:
    """Give the character of one escape; empty where it shows none."""
    name = match["quoted"] or match["two"] or match["long"] or match["one"]
    if name:
        point = CODE_POINT.fullmatch(name)
        if point and int(point[1], 16) <= 0x10FFFF:
            return chr(int(point[1], 16))
        return SPECIAL.get(name, "")
    return SINGLE.get(match["single"] or "", "")
