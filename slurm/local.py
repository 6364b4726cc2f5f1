"""A job without SLURM: its tasks as processes of this machine."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

STOPPING_S = 30  # as SLURM's KillWait: then those that are left are killed
HANDED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


def run(words: Sequence[str], *, n_tasks: int, folder: Path, environment: Mapping[str, str]) -> int:
    """Run `helix` on ranks of this machine; give the first bad status of one, else 0.

    Rank 0 writes to this terminal, the others to logs in the folder.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tasks = [
        start_task(
            words,
            {
                **environment,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(n_tasks),
                "LOCAL_WORLD_SIZE": str(n_tasks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            log=folder / f"local_{rank}_log.out" if rank else None,
        )
        for rank in range(n_tasks)
    ]
    before = {number: signal.getsignal(number) for number in HANDED_ON}

    def hand_on(number: int, frame: FrameType | None) -> None:
        # A terminal's Ctrl-C goes on as SIGTERM: a task passes SIGINT over.
        send(tasks, signal.SIGTERM if number == signal.SIGINT else number)

    for number in HANDED_ON:
        signal.signal(number, hand_on)
    try:
        return wait(tasks)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_task(
    words: Sequence[str], environment: Mapping[str, str], *, log: Path | None
) -> subprocess.Popen[bytes]:
    """Start one task, in a session of its own: a terminal's Ctrl-C comes to us alone."""
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("ab")) if log else None
        return subprocess.Popen(
            [sys.executable, "-m", "slurm.task", *words],
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def wait(tasks: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all tasks; after the first that fails, end the others."""
    first_bad, kill_at = 0, float("inf")
    while any(task.poll() is None for task in tasks):
        bad = next((task.returncode for task in tasks if task.returncode), 0)
        if bad and not first_bad:
            first_bad, kill_at = bad, time.monotonic() + STOPPING_S
        if time.monotonic() > kill_at:
            for task in tasks:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(task.pid, signal.SIGKILL)
        time.sleep(0.1)
    return first_bad or next((task.returncode for task in tasks if task.returncode), 0)


def send(tasks: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    """Send a signal to the tasks that live."""
    for task in tasks:
        with contextlib.suppress(ProcessLookupError):
            task.send_signal(number)
