"""Batches of documents, worked on by several processes, in order."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress, track

from data_tools.documents import Document, stream_documents
from data_tools.processes import map_in_order
from data_tools.readers.files import TextFile, find_files
from data_tools.text_options import TextOptions

Item = TypeVar("Item")
Result = TypeVar("Result")
BATCH_BYTES = 2**21  # characters of text handed over at once: a tenth of a second of work
COMPRESSED_RATIO = 3  # of prose, by gzip and zstd at their defaults; measured on the small corpus
SMALL_INPUT_BYTES = 32 * 2**20  # below, two processes start for longer than one works


def show_stream(items: Iterable[Item], description: str) -> Iterator[Item]:
    """Yield items whose number nobody knows, drawing that they pass when stderr is a terminal."""
    yield from track(
        items,
        description,
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def show_documents(options: TextOptions, description: str) -> Iterator[Document]:
    """Yield the inputs' documents, drawing how much of the files is read when stderr is a terminal.

    Their bytes on disk are counted, which are known before the first is uncompressed.
    """
    with Progress(
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        n_bytes = sum(file.n_bytes for file in find_files(options.inputs))
        task = progress.add_task(description, total=n_bytes)
        yield from stream_documents(
            options.inputs,
            field=options.field,
            source=options.source,
            licence=options.licence,
            report=lambda n_read: progress.advance(task, n_read),
        )


def estimate_bytes(files: Iterable[TextFile]) -> int:
    """Estimate how much text files hold, from their bytes on disk."""
    return sum(file.n_bytes * (COMPRESSED_RATIO if file.is_compressed else 1) for file in files)


def batch_items(
    items: Iterable[Item], text_of: Callable[[Item], str], *, n_items: int = sys.maxsize
) -> Iterator[list[Item]]:
    """Group items to batches of about `BATCH_BYTES` of text, and of `n_items` at the most."""
    batch: list[Item] = []
    n_characters = 0
    for item in items:
        batch.append(item)
        n_characters += len(text_of(item))
        if n_characters >= BATCH_BYTES or len(batch) == n_items:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch


def choose_workers(inputs: Sequence[str | Path], n_workers: int) -> int:
    """Give the number of processes: as asked, or for 0 as many as the input is worth."""
    if n_workers:
        return n_workers
    return (
        1
        if estimate_bytes(find_files(inputs)) < SMALL_INPUT_BYTES
        else len(os.sched_getaffinity(0))
    )


def map_batches(
    function: Callable[[list[Item]], Result],
    documents: Iterable[Document],
    *,
    pick: Callable[[Document], Item],
    n_workers: int,
) -> Iterator[tuple[list[Document], Result]]:
    """Apply a function to a batch at a time; yield the batch with its result, in order.

    Args:
        function: Picklable, of a module that imports nothing heavy (processes.py).
        pick: What the function gets of each document.
    """
    ahead: deque[list[Document]] = deque()

    def picked() -> Iterator[list[Item]]:
        for batch in batch_items(documents, text_of):
            ahead.append(batch)
            yield [pick(document) for document in batch]

    for result in map_in_order(function, picked(), n_workers=n_workers):
        yield ahead.popleft(), result


def text_of(document: Document) -> str:
    """Pick the text."""
    return document.text


def text_and_language(document: Document) -> tuple[str, str]:
    """Pick the text and the language."""
    return document.text, document.language
