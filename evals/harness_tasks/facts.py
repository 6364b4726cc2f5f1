"""The shipped facts as multiple choice: the right end of a statement among its hard wrong ones."""

import hashlib
import random
from typing import Any

from datasets import Dataset

from evals.items import SHIPPED, Item, read_items

HARDNESS = "hard"


def load_de(**metadata: Any) -> dict[str, Dataset]:
    """Load the German facts."""
    return load("de")


def load_en(**metadata: Any) -> dict[str, Dataset]:
    """Load the English facts."""
    return load("en")


def load(language: str) -> dict[str, Dataset]:
    """Load the facts of a language, the relations mixed: a limit takes some of each."""
    items = sorted(read_items(SHIPPED / f"facts.{language}.jsonl"), key=place_of)
    return {"test": Dataset.from_list([question(item) for item in items])}


def place_of(item: Item) -> str:
    """Hash an item's name, which is one in all languages."""
    return hashlib.sha256(item.id.encode()).hexdigest()


def question(item: Item) -> dict[str, Any]:
    """Put the right answer at a place that the item's name alone decides."""
    choices = [item.answer, *item.distractors[HARDNESS]]
    random.Random(item.id).shuffle(choices)
    return {
        "id": item.id,
        "category": item.category,
        "prompt": item.prompt,
        "choices": choices,
        "label": choices.index(item.answer),
    }
