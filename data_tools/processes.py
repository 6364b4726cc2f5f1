"""Processes: a function applied by several of them, results in order.

Nothing heavy is imported here nor in what is sent: a process starts in a tenth of a second.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, n_workers: int
) -> Iterator[Result]:
    """Apply a function in `n_workers` processes, reading a few items ahead.

    Args:
        function: Picklable; it is sent to each process once.
    """
    if n_workers == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(
        n_workers, mp_context=get_context("spawn"), initializer=_install, initargs=(function,)
    ) as pool:
        for item in items:
            waiting.append(pool.submit(_call, item))
            if len(waiting) > 2 * n_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_installed: Callable[[Any], Any] | None = None


def _install(function: Callable[[Any], Any]) -> None:
    """Keep the function of this process, and end with the one that started it."""
    global _installed
    _installed = function
    end_with_parent()


def end_with_parent() -> None:
    """End this process when the one that started it is killed, which would leave it waiting."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(item: Any) -> Any:
    """Apply the function of this process."""
    assert _installed is not None
    return _installed(item)
