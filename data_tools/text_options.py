"""Options of every verb that reads a person's own text.

Imports nothing heavy, for each worker process loads it.
"""

import re
from dataclasses import dataclass

SOURCE = re.compile(r"[\w-]{1,48}(\.[a-z]{2,3})?")


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Text to read.

    Attributes:
        inputs: .txt, .jsonl and .parquet files, the first two also as .gz or .zst; folders of
            them; and, for subfolders too, globs in quotes: "texts/**/*.jsonl.zst".
        field: Where a row of .jsonl or .parquet has its text; "article.body" is within an object.
        source: Name of the source of all inputs, such as "wiki" or, with its language, "wiki.de";
            by default each file is a source. What a row says of itself counts more.
        licence: Of the documents that do not say theirs.
    """

    inputs: tuple[str, ...]
    field: str = "text"
    source: str = ""
    licence: str = "unstated"

    def __post_init__(self) -> None:
        if not self.field:
            raise ValueError("field=: give the name of the field that holds the text")
        if self.source and not SOURCE.fullmatch(self.source):
            raise ValueError(
                f"source={self.source}: give a name of letters, digits, - and _, 48 at most, and "
                "perhaps its language: wiki.de"
            )
        if not self.licence:
            raise ValueError("licence=: give an SPDX identifier, or leave it out")
