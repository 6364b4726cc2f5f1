"""Agreement: a verb in the number of its subject, while another noun stands between them.

"The key to the cabinets" goes on with " is", not with " are". All sentences are made from the
lists below, so that none was read in training on purpose.

Source: of the idea, Linzen et al. 2016, arXiv:1611.01368.
"""

import random
from itertools import product
from typing import Any

from datasets import Dataset

ENGLISH = {
    "subjects": [
        ("The key", "The keys"),
        ("The letter", "The letters"),
        ("The door", "The doors"),
        ("The picture", "The pictures"),
        ("The lamp", "The lamps"),
    ],
    "between": [
        (" beside the box", " beside the boxes"),
        (" under the table", " under the tables"),
        (" behind the house", " behind the houses"),
        (" near the window", " near the windows"),
        (" from the neighbour", " from the neighbours"),
    ],
    "verbs": [(" is", " are"), (" was", " were")],
    "ends": [" old.", " new.", " small.", " beautiful.", " expensive."],
}
GERMAN = {
    "subjects": [
        ("Der Schlüssel", "Die Schlüssel"),
        ("Der Brief", "Die Briefe"),
        ("Die Tür", "Die Türen"),
        ("Das Bild", "Die Bilder"),
        ("Die Lampe", "Die Lampen"),
    ],
    "between": [
        (" neben der Kiste", " neben den Kisten"),
        (" auf dem Tisch", " auf den Tischen"),
        (" hinter dem Haus", " hinter den Häusern"),
        (" nahe dem Fenster", " nahe den Fenstern"),
        (" von der Nachbarin", " von den Nachbarinnen"),
    ],
    "verbs": [(" ist", " sind"), (" war", " waren")],
    "ends": [" alt.", " neu.", " klein.", " schön.", " teuer."],
}


def load_de(**metadata: Any) -> dict[str, Dataset]:
    """Make the German sentences."""
    return {"test": Dataset.from_list(sentences(GERMAN))}


def load_en(**metadata: Any) -> dict[str, Dataset]:
    """Make the English sentences."""
    return {"test": Dataset.from_list(sentences(ENGLISH))}


def sentences(words: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Make every combination in which the noun between has the other number, mixed."""
    made = []
    for subject, between, verb, end in product(*words.values()):
        for number in (0, 1):
            made.append(
                {
                    "prompt": subject[number] + between[1 - number],
                    "choices": [verb[0] + end, verb[1] + end],
                    "label": number,
                }
            )
    random.Random(0).shuffle(made)
    return made
