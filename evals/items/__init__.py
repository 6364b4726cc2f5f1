"""Items of the evaluation of facts: what a line of facts.LANGUAGE.jsonl holds.

The files beside this module are the shipped set. `helix data facts` built them; README.md tells
from what, under which licences.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from helix.config import write_whole
from helix.data import DataError

SHIPPED = Path(__file__).parent
LANGUAGES = ("de", "en")
CATEGORIES = ("geography", "history", "science", "language")
HARDNESSES = ("hard", "medium", "easy")


@dataclass(frozen=True, kw_only=True)
class Item:
    """A statement to complete, its right end and wrong ones.

    Attributes:
        id: The same in all languages.
        relation: What is asked, as "capital".
        prompt: Ends without a space; the answer follows after one.
        distractors: Wrong answers of the right kind by hardness; the hard ones are the nearest.
    """

    id: str
    language: str
    category: str
    relation: str
    prompt: str
    answer: str
    distractors: dict[str, list[str]]
    source: str
    licence: str

    def to_line(self) -> str:
        """Write the item as a line of .jsonl; the same item gives the same text."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def write_items(items: Iterable[Item], folder: Path) -> None:
    """Write a file per language, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {language: [] for language in LANGUAGES}
    for item in items:
        lines[item.language].append(item.to_line())
    for language, own in lines.items():
        write_whole(folder / f"facts.{language}.jsonl", "".join(own))


def read_items(path: str | Path) -> list[Item]:
    """Read the items of a .jsonl file, or of all those of a folder.

    Raises:
        DataError: There are none, a line is no item, or two have one id in one language; the
            message names it.
    """
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    items = [item for file in files for item in read_file(file)]
    if not items:
        raise DataError(f"items={path}: no items; give a .jsonl file or a folder of them")
    count_of = Counter((item.id, item.language) for item in items)
    for (name, language), n_items in count_of.items():
        if n_items > 1:
            raise DataError(f"items={path}: id {name} is there {n_items} times in {language}")
    return items


def read_file(path: Path) -> list[Item]:
    """Read the items of one file."""
    try:
        # Not splitlines: a text may hold a separator of Unicode's.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"items={path}: cannot be read ({error}); give a .jsonl file") from None
    return [
        parse_item(line, where=f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def parse_item(line: str, *, where: str) -> Item:
    """Parse one line, and refuse what cannot be scored."""
    try:
        row: dict[str, Any] = json.loads(line)
        item = Item(**row)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{where}: no item ({error}); its fields are {', '.join(f.name for f in fields(Item))}"
        ) from None
    texts = [getattr(item, field.name) for field in fields(Item) if field.name != "distractors"]
    if not all(isinstance(text, str) and text for text in texts):
        raise DataError(f"{where}: a field is empty or no text")
    wrong = item.distractors.values() if isinstance(item.distractors, dict) else []
    if not wrong or not all(isinstance(texts, list) and texts for texts in wrong):
        raise DataError(f'{where}: give distractors as {{"hard": ["...", ...], ...}}')
    if not set(item.distractors) <= set(HARDNESSES):
        raise DataError(f"{where}: hardnesses are {', '.join(HARDNESSES)}")
    if not all(isinstance(text, str) and text for texts in wrong for text in texts):
        raise DataError(f"{where}: a distractor is empty or no text")
    if any(item.answer in texts or len(set(texts)) < len(texts) for texts in wrong):
        raise DataError(f"{where}: a distractor is the answer, or is given twice")
    return item
