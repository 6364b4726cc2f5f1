"""Reads the next batch in a thread, while the device still works on this one.

A GPU computes for hundreds of milliseconds after the last kernel of a step is queued; what is read
then costs nothing, and a slow disk or network is waited for by the thread. The position that is
saved stays before the batch that was read ahead, so a run that stops loses and repeats no row.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType

import torch

from helix.batch import Batch
from helix.data.stream import Loader


class ReadAhead:
    """A loader that can have one batch under way. Use it in a `with`, or close it.

    Attributes:
        wait_ms: How long the last `next` waited for data.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.thread = ThreadPoolExecutor(1, "helix-ahead")
        self.ahead: tuple[Future[Batch], dict] | None = None  # and the position before it
        self.wait_ms = 0.0

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def prepare(self) -> None:
        """Begin to read the batch that `next` will give, unless it is under way already."""
        if self.ahead is None:
            before = self.loader.state_dict()
            device = torch.cuda.current_device() if torch.cuda.is_available() else None
            self.ahead = self.thread.submit(self.read, device), before

    def read(self, device: int | None) -> Batch:
        """Read a batch; for a GPU, into memory that it reads by itself.

        Args:
            device: The GPU of this process: a new thread would pin for the first one, and make a
                context there.
        """
        batch = self.loader.next()
        if device is None:
            return batch
        torch.cuda.set_device(device)
        return batch.pinned()

    def next(self) -> Batch:
        """Give this rank's rows of the next global batch.

        Raises:
            DataError: It cannot be read. The position stays before it; `next` says so again.
        """
        started = time.perf_counter()
        self.prepare()
        assert self.ahead is not None
        batch = self.ahead[0].result()
        self.ahead = None
        self.wait_ms = (time.perf_counter() - started) * 1e3
        return batch

    def state_dict(self) -> dict:
        """Give the position before the batch that `next` will give; see Loader.state_dict."""
        return self.loader.state_dict() if self.ahead is None else self.ahead[1]

    def load_state_dict(self, state: dict) -> None:
        """Go to a position and drop what was read ahead; see Loader.load_state_dict."""
        if self.ahead is not None:
            wait([self.ahead[0]])
        self.loader.load_state_dict(state)
        self.ahead = None

    def close(self) -> None:
        """Drop what is under way and end all threads; what then fails is nobody's concern."""
        self.loader.close()
        self.thread.shutdown(cancel_futures=True)
