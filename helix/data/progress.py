"""A progress bar on stderr, where a person is looking."""

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def show_progress(items: Sequence[Item], description: str) -> Iterator[Item]:
    """Yield the items, drawing how many are done when stderr is a terminal."""
    yield from track(
        items,
        description,
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
