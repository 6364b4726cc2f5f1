"""Stops: signals and the scheduler's deadline, agreed by all ranks between two steps.

So that they save together. A Python handler runs only between bytecodes: a rank that waits in a
collective notes its signal when the others have come.
"""

import os
import signal
import time
from collections import deque
from types import FrameType, TracebackType

from helix.config import ConfigError
from helix.distributed import max_over_ranks

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
TIME_IS_UP = signal.SIGALRM  # stands for the deadline, which no signal tells of: status 142
DEADLINE = "HELIX_DEADLINE_UNIX_S"
SAVES = 1.5  # a save on a busy file system takes longer than the last one did
RECENT_STEPS = 128

_listening: "Stops | None" = None


class Stops:
    """Remembers the first stop signal and lives on; a second Ctrl-C interrupts at once.

    Helpers that are forked meanwhile ignore these signals, which a scheduler sends to every
    process of a job: the parent needs them until it has saved, and ends them itself.

    Args:
        first_save_s: What a save is taken to last before one was measured.
    """

    def __init__(self, *, first_save_s: float = 0.0) -> None:
        self.received = 0
        self.previous: dict[int, object] = {}
        self.deadline_unix_s = read_deadline()
        self.first_save_s = first_save_s
        self.note_save(0.0, is_under_way=False)
        self.steps_s: deque[float] = deque(maxlen=RECENT_STEPS)
        self.last_asked = time.monotonic()

    def __enter__(self) -> "Stops":
        global _listening
        for number in STOP_SIGNALS:
            self.previous[number] = signal.signal(number, self._remember)
        _listening = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _listening
        _listening = None
        for number, handler in self.previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def note_save(self, longest_s: float, *, is_under_way: bool) -> None:
        """Note the longest save so far, and whether one is under way that would come first.

        Args:
            longest_s: From its beginning until it was safe on disk; 0 before the first.
        """
        self.save_s = longest_s or self.first_save_s
        self.n_saves = SAVES + is_under_way

    def agreed(self) -> int:
        """Give the signal that any rank received, the same on every rank; 0 if none did.

        All ranks call it once a step. TIME_IS_UP stands for the deadline.
        """
        now = time.monotonic()
        self.steps_s.append(now - self.last_asked)
        self.last_asked = now
        return max_over_ranks(self.received or (TIME_IS_UP if self.is_time_up() else 0))

    def is_time_up(self) -> bool:
        """Tell whether another step would leave too little time to save."""
        if self.deadline_unix_s is None:
            return False
        left = self.deadline_unix_s - time.time()
        return left < self.n_saves * self.save_s + max(self.steps_s, default=0.0)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number


def read_deadline() -> float | None:
    """Read when the scheduler will end this job; None where there is no limit."""
    text = os.environ.get(DEADLINE, "")
    try:
        return float(text) if text else None
    except ValueError:
        raise ConfigError(
            f"{DEADLINE}={text}: give the seconds since 1970 at which the job ends, or unset it"
        ) from None


def _ignore_in_child() -> None:
    if _listening is not None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


os.register_at_fork(after_in_child=_ignore_in_child)
