"""Requeue: puts this very job back into the queue by the command that the scheduler's side gave.

HELIX_REQUEUE holds the command line, as in "scontrol requeue 42"; without it nobody may requeue.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from helix import distributed
from helix.training.stops import STOP_SIGNALS

COMMAND = "HELIX_REQUEUE"
TIMEOUT_S = 60


def run_requeue() -> bool:
    """Run the requeue command; tell whether it did. Its failure is told and is not ours."""
    command = os.environ.get(COMMAND, "")
    try:
        words = shlex.split(command)
        if not words:
            return False
        done = _start(words)
        _, told = done.communicate(timeout=TIMEOUT_S)
        problem = f"status {done.returncode}: {told.strip()}" if done.returncode else ""
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        line = " ".join(problem.split())
        print(f"helix: not requeued: {command}: {line}; start the job again", file=sys.stderr)
    else:
        print(f"helix: requeued: {command}", file=sys.stderr)
    sys.stderr.flush()
    return not problem


def _start(words: list[str]) -> subprocess.Popen[str]:
    # The scheduler signals every process of the job; this one must outlive that. A mask is
    # inherited where a handler is not, and leaves the other threads of this process to listen.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def requeue_once(claim: Path) -> bool:
    """Requeue unless another rank does: the first to make the file `claim`. See `run_requeue`."""
    if not os.environ.get(COMMAND):
        return False
    try:
        claim.parent.mkdir(parents=True, exist_ok=True)
        claim.open("x").close()
    except FileExistsError:
        return False
    except OSError as error:  # twice requeued is better than never
        print(f"helix: {claim}: {error}", file=sys.stderr)
    return run_requeue()


def requeue_after_stop(*, wait_s: float) -> None:
    """After a stop and a save: rank 0 requeues, and all ranks wait for the scheduler to end them.

    A rank that ended first could end the job as failed before the requeue lands. All ranks call
    it; without a command, or where it fails, it returns at once.
    """
    if not distributed.from_main("requeued" if distributed.is_main() and run_requeue() else ""):
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # that is the scheduler ending us
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(wait_s)
