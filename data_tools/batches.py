"""Batches of documents, worked on by several processes, in order."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from data_tools.documents import Document, text_files
from data_tools.processes import map_in_order

Item = TypeVar("Item")
Result = TypeVar("Result")
BATCH_BYTES = 2**21  # characters of text handed over at once: a tenth of a second of work
SMALL_INPUT_BYTES = 32 * 2**20  # below, two processes start for longer than one works


def show_stream(
    items: Iterable[Item], description: str, *, n_items: int | None = None
) -> Iterator[Item]:
    """Yield items, drawing how many have passed when stderr is a terminal.

    Args:
        n_items: How many there will be, where that is known.
    """
    yield from track(
        items,
        description,
        total=n_items,
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def batch_documents(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Group documents to batches of about `BATCH_BYTES`."""
    batch: list[Document] = []
    n_characters = 0
    for document in documents:
        batch.append(document)
        n_characters += len(document.text)
        if n_characters >= BATCH_BYTES:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch


def choose_workers(inputs: Sequence[str | Path], n_workers: int) -> int:
    """Give the number of processes: as asked, or for 0 as many as the input is worth."""
    if n_workers:
        return n_workers
    n_bytes = sum(file.stat().st_size for path in inputs for file in text_files(Path(path)))
    return 1 if n_bytes < SMALL_INPUT_BYTES else len(os.sched_getaffinity(0))


def map_texts(
    function: Callable[[list[str]], Result], documents: Iterable[Document], *, n_workers: int
) -> Iterator[tuple[list[Document], Result]]:
    """Apply a function to the texts of a batch at a time; yield the batch with its result.

    Args:
        function: Picklable, of a module that imports nothing heavy (processes.py).
    """
    ahead: deque[list[Document]] = deque()

    def texts() -> Iterator[list[str]]:
        for batch in batch_documents(documents):
            ahead.append(batch)
            yield [document.text for document in batch]

    for result in map_in_order(function, texts(), n_workers=n_workers):
        yield ahead.popleft(), result
