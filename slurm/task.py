"""One task of a job: starts `helix` with its environment, hands signals on, judges how it ended.

    srun --kill-on-bad-exit=1 python -m slurm.task train run_dir=...

It stands outside the rank, so that it outlives one that is killed or aborts, and imports nothing
heavy.

    helix ended with          then
    0, 2, or another status   the task ends with it; 2 is for a person, and never requeued
    128 + a signal            all ranks saved: rank 0 requeues the job, the others wait
    75, or killed             requeued, unless it failed three times without a new checkpoint
    killed by SIGTERM         SLURM ends the job, and knows what comes next
"""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from slurm.environment import is_task, n_restarts, task_environment

TRY_AGAIN = 75  # EX_TEMPFAIL
SIGNALLED = 128
# SIGINT is not among them: a terminal sends it to all of a group, and a second one interrupts.
TO_SAVE = (signal.SIGUSR1, signal.SIGUSR2)
HANDED_ON = (signal.SIGTERM, *TO_SAVE)
STOPPED = range(SIGNALLED + 1, SIGNALLED + 65)  # SIGALRM stands for the deadline
MAX_FAILURES = 3  # without a new checkpoint between them
GIVEN_UP = (
    f"{MAX_FAILURES} attempts failed without a new checkpoint, so this job is not tried again; "
    "mend what the logs tell, and launch the run anew"
)
RANK_0_FIRST_S = 20  # then the others ask too: rank 0 may be lost, or hang
TO_BE_KILLED_S = 600


class Rank:
    """A `helix` process, and the signals that it is to get."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self.received: set[int] = set()
        self.pending: list[int] = []
        for number in HANDED_ON:
            signal.signal(number, self._remember)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "helix", *words],
            env={**os.environ, **environment},
            # What trains saves when it is told to end; anything else ends.
            preexec_fn=partial(ignore_signals, HANDED_ON if words[0] == "train" else TO_SAVE),
        )

    def wait(self) -> int:
        """Give the exit status; a process that was killed gives the negative signal."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(timeout=0.2)
            self._hand_on()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received.add(number)
        self.pending.append(number)

    def _hand_on(self) -> None:
        """Send what came, once the rank no longer ignores it: before that, it would be lost.

        SLURM signals every process of a step, so that a rank may get a signal twice.
        """
        for number in list(self.pending):
            if not ignores(self.process.pid, number):
                self.pending.remove(number)
                with contextlib.suppress(ProcessLookupError):
                    self.process.send_signal(number)


def ignore_signals(numbers: Sequence[int]) -> None:
    """Let a process that is being started ignore signals until it says what it does with them."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def ignores(pid: int, number: int) -> bool:
    """Tell whether a process ignores a signal."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    ignored = next((line.split()[1] for line in lines if line.startswith("SigIgn:")), "0")
    return bool(int(ignored, 16) >> (number - 1) & 1)


def run(words: Sequence[str]) -> int:
    """Run `helix` with these words as a task of a job; give the status to end with."""
    drop_old_results(os.environ)
    own = task_environment(os.environ) if is_task(os.environ) else {}
    environment = {**os.environ, **own}
    if n_failures(words, environment) >= MAX_FAILURES:  # the watchdog requeues by itself
        say(GIVEN_UP, environment)
        return TRY_AGAIN
    rank = Rank(words, own)
    status = rank.wait()
    if -status in (signal.SIGTERM, signal.SIGKILL) and signal.SIGTERM in rank.received:
        return SIGNALLED - status
    return settle(status, words, environment)


def run_and_exit(words: Sequence[str]) -> None:
    """Be the function that submitit calls: a failure ends the process with its own status."""
    status = run(words)
    if status:
        raise SystemExit(status)


def settle(status: int, words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Requeue the job if how its rank ended calls for it; give the status to end with."""
    is_failure = status == TRY_AGAIN or (status < 0 and status != -signal.SIGTERM)
    shown = SIGNALLED - status if status < 0 else status
    if not (is_failure or status in STOPPED):
        return shown
    command = shlex.split(environment.get("HELIX_REQUEUE", ""))
    if not command:
        say(f"ended with {shown}, and nobody may requeue the job", environment)
        return shown
    if is_failure:
        note_failure(words, environment)
        if n_failures(words, environment) >= MAX_FAILURES:
            say(GIVEN_UP, environment)
            return shown
    is_first = status < 0 or environment.get("RANK") == "0"
    signal.signal(signal.SIGTERM, lambda *_: os._exit(shown))  # SLURM ends what was requeued
    time.sleep(0 if is_first else RANK_0_FIRST_S)
    if subprocess.run(command, check=False).returncode:
        return shown
    time.sleep(TO_BE_KILLED_S)  # an end of our own, before SLURM's, may count as a failure
    return shown


def n_failures(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Count the attempts of this job that failed since the run's newest checkpoint."""
    attempts = read_failures(words, environment)["attempts"]
    of_job = f"{environment.get('SLURM_JOB_ID', '')}."
    return sum(attempt.startswith(of_job) for attempt in attempts)


def note_failure(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """Note that this attempt failed; several ranks may, and it counts once."""
    failures = read_failures(words, environment)
    attempt = f"{environment.get('SLURM_JOB_ID', '')}.{n_restarts(environment)}"
    failures["attempts"] = sorted({*failures["attempts"], attempt})
    file = failures_file(words, environment)
    with contextlib.suppress(OSError):  # a full disk is no reason not to try again
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".failures.{socket.gethostname()}.{os.getpid()}")
        partial.write_text(json.dumps(failures))
        partial.replace(file)


def read_failures(words: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Read which attempts failed since the run's newest checkpoint."""
    newest = ""
    with contextlib.suppress(OSError):
        newest = Path(run_dir_of(words), "checkpoints", "latest").read_text()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(failures_file(words, environment).read_text())
        if kept["checkpoint"] == newest:
            return {"checkpoint": newest, "attempts": list(kept["attempts"])}
    return {"checkpoint": newest, "attempts": []}


def failures_file(words: Sequence[str], environment: Mapping[str, str]) -> Path:
    """Say where failures are noted: in the run's folder, or in the job's where there is no run."""
    run_dir = run_dir_of(words)
    folder = Path(run_dir, "slurm") if run_dir else Path(environment.get("SUBMITIT_FOLDER", "."))
    return folder / "failures.json"


def run_dir_of(words: Sequence[str]) -> str:
    """Find the run folder among a command's words; empty where none is named."""
    return next((w.partition("=")[2] for w in words if w.startswith("run_dir=")), "")


def drop_old_results(environment: Mapping[str, str]) -> None:
    """Remove what submitit kept of an earlier attempt, or that would be taken for this one's."""
    folder, rank = environment.get("SUBMITIT_FOLDER"), environment.get("SLURM_PROCID")
    if folder and rank:
        job_id = environment["SLURM_JOB_ID"]
        if "SLURM_ARRAY_JOB_ID" in environment:
            job_id = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
        Path(folder, f"{job_id}_{rank}_result.pkl").unlink(missing_ok=True)


def say(text: str, environment: Mapping[str, str]) -> None:
    """Write a line to the log of this rank."""
    print(f"slurm: rank {environment.get('RANK', '?')}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
