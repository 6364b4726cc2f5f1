"""Stop signals: a flag that all ranks agree on between two steps, so that they save together."""

import signal
from types import FrameType, TracebackType

from helix.distributed import max_over_ranks

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StopSignals:
    """Remembers the first stop signal and lives on; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.received = 0
        self.previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in STOP_SIGNALS:
            self.previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def agreed(self) -> int:
        """Give the signal that any rank received, the same on every rank; 0 if none did."""
        return max_over_ranks(self.received)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number
