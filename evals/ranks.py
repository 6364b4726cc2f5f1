"""Batches of an evaluation, shared out over ranks."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from helix import distributed
from helix.data.progress import show_progress

Batch = TypeVar("Batch")
Found = TypeVar("Found")


def spread(
    work: Callable[[Batch], Mapping[int, Found]], batches: Sequence[Batch], *, title: str
) -> list[Found]:
    """Do every batch on one of the ranks; all ranks call it and get all that was found.

    Args:
        work: Gives what it found by the number of the item; each item is in one batch.
        title: Of the progress bar.

    Returns:
        What was found, in the order of the items.
    """
    found: dict[int, Found] = {}
    own = batches[distributed.rank() :: distributed.world_size()]
    for batch in show_progress(own, title):
        found |= work(batch)
    for part in distributed.gather(found):
        found |= part
    return [found[number] for number in sorted(found)]
