"""Dictionaries and collections: many short entries, neighbours together in a document."""

import re
from collections.abc import Iterable, Iterator

from data_tools.corpus.paragraphs import one_line
from data_tools.documents import group_blocks

DICTD_NOTICE = re.compile(r"^00-?database.*?(?=^\S)", re.MULTILINE | re.DOTALL)
ENTRY_START = re.compile(r"\n(?=\S)")
FORTUNE_END = re.compile(r"^%\s*$", re.MULTILINE)
OVERSTRUCK = re.compile(".\b")
FORTUNE_CHARACTERS = 40
GRAMMAR_MARK = re.compile(r"\s*(?:\{[^}]*\}|\[[^\]]*\])")


def group_entries(entries: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield numbered documents of neighbouring entries, one entry a line."""
    for number, text in enumerate(group_blocks(filter(None, entries), separator="\n")):
        yield str(number), text.split("\n")


def dictd_entries(text: str) -> Iterator[str]:
    """Yield the entries of a dictd dictionary: they begin at the start of a line."""
    for entry in ENTRY_START.split(DICTD_NOTICE.sub("", text)):
        yield one_line(entry).replace("{", "").replace("}", "")


def wordnet_entries(text: str) -> Iterator[str]:
    """Yield synonyms and gloss of each set; see wndb(5) for the columns."""
    for line in text.split("\n"):
        columns, bar, gloss = line.partition("|")
        if bar and not line.startswith("  "):  # two spaces: the licence
            words = columns.split()
            n_words = int(words[3], 16)
            names = [word.replace("_", " ") for word in words[4 : 4 + 2 * n_words : 2]]
            yield one_line(f"{', '.join(names)}: {gloss}")


def fortunes(text: str) -> Iterator[str]:
    """Yield the sayings of a fortune file, without the shortest."""
    sayings = (one_line(OVERSTRUCK.sub("", saying)) for saying in FORTUNE_END.split(text))
    return (saying for saying in sayings if len(saying) > FORTUNE_CHARACTERS)


def ding_entries(text: str) -> Iterator[str]:
    """Yield the lines `German :: English` of a ding word list, without marks of grammar."""
    for line in text.split("\n"):
        if "::" in line and not line.startswith("#"):
            yield one_line(GRAMMAR_MARK.sub("", line))


def glosses(text: str) -> Iterator[str]:
    """Yield `Headword: gloss; gloss` of lines `headword TAB gloss | gloss`."""
    for line in text.split("\n"):
        word, tab, meaning = line.partition("\t")
        if tab:
            yield one_line(f"{word}: {meaning.replace(' | ', '; ')}")
