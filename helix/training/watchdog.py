"""The watchdog: a thread beside each rank that ends a run which hangs, and says where it hung.

It knows the phase that the rank is in and since when. Where a phase lasts too long, the stacks of
all ranks are written, the suspect is named, the job is put back into the queue, and all ranks end
with status 75. Ranks talk through files in the run folder, since their main threads may be stuck
in a collective:

    stacks/attempt-A/hang                 made by the first rank that found one: all others answer
                    /rank-R.txt           the Python stacks of all threads of a rank
                    /rank-R.json          its phase, since when, its step
                    /rank-R.nccl.json     what NCCL's flight recorder has
                    /requeued             made by the one rank that names the suspect and requeues
                    /over                 then all end

Nothing here waits for a file system for ever: it may be what hangs.
"""

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from helix.config import WatchdogConfig, write_whole
from helix.training.requeue import requeue_once

RETRY = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed
POLL_S = 2.0
ANSWER_S = 15.0  # a rank that has not answered by then is not going to
LAST_RESORT_S = 120.0  # more than the answers and the requeue command take together
FLIGHT_RECORDER_S = 5.0
PHASES = ("data", "forward", "backward", "step", "save", "validate")  # as they follow each other


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a rank is.

    Attributes:
        step: The one under way; the first is 1.
        phase_s: How long it has been in the phase.
    """

    rank: int
    step: int
    phase: str
    phase_s: float

    @property
    def order(self) -> tuple[int, int]:
        """Tell how far it has come: the rank that is behind keeps the others waiting."""
        return self.step, PHASES.index(self.phase) if self.phase in PHASES else -1


class Watchdog:
    """Watches this rank while it is used in a `with`.

    Args:
        folder: Where the ranks of this attempt meet; it need not be there.
    """

    def __init__(self, config: WatchdogConfig, folder: Path, *, rank: int, world_size: int) -> None:
        self.limits = {phase: float(getattr(config, f"{phase}_s")) for phase in PHASES}
        self.folder = folder
        self.rank = rank
        self.world_size = world_size
        self.step = 0
        self.at = ("", time.monotonic())
        self.ended = threading.Event()
        self.is_ending = threading.Lock()
        shortest = min((limit for limit in self.limits.values() if limit), default=0.0)
        self.is_on = shortest > 0
        self.poll_s = min(POLL_S, shortest / 4)

    def enter(self, phase: str) -> None:
        """Note that a phase begins; an empty name has no limit."""
        self.at = (phase, time.monotonic())

    def __enter__(self) -> "Watchdog":
        for work in (self._watch, self._listen) if self.is_on else ():
            threading.Thread(target=work, name=f"helix-{work.__name__}", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ended.set()

    def _watch(self) -> None:  # touches no file until something is wrong
        while not self.ended.wait(self.poll_s):
            phase, since = self.at
            limit = self.limits.get(phase, 0.0)
            if limit and time.monotonic() - since > limit:
                self._end(f"no progress in {phase} for {limit:g} s")

    def _listen(self) -> None:
        while not self.ended.wait(self.poll_s):
            if (self.folder / "hang").exists():
                self._end("")

    def _end(self, reason: str) -> None:
        """Write all that is known and end the process; the first caller does it."""
        if not self.is_ending.acquire(blocking=False):
            return
        last_resort = threading.Timer(LAST_RESORT_S, os._exit, (RETRY,))
        last_resort.daemon = True
        last_resort.start()
        try:
            self._tell(reason)
        except Exception as error:  # whatever it is, it must not keep the process
            print(f"helix: watchdog of rank {self.rank}: {error}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(RETRY)

    def _tell(self, reason: str) -> None:
        place = self.place()
        self.folder.mkdir(parents=True, exist_ok=True)
        if reason:
            (self.folder / "hang").touch()
        write_stacks(self.folder / f"rank-{self.rank}.txt", reason or "another rank asked")
        write_whole(self.folder / f"rank-{self.rank}.json", json.dumps(asdict(place)))
        write_flight_record(self.folder / f"rank-{self.rank}.nccl.json")
        if claim(self.folder / "named"):
            places = self._await_places()
            line = name_suspect(places, self.world_size)
            print(f"helix: hang: {line}; stacks: {self.folder}", file=sys.stderr, flush=True)
            requeue_once(self.folder / "requeued")
            (self.folder / "over").touch()
        else:
            self._await_end()

    def place(self) -> Place:
        """Say where this rank is."""
        phase, since = self.at
        seconds = round(time.monotonic() - since, 1)
        return Place(rank=self.rank, step=self.step, phase=phase, phase_s=seconds)

    def _await_places(self) -> dict[int, Place]:
        files = {rank: self.folder / f"rank-{rank}.json" for rank in range(self.world_size)}
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until and not all(file.exists() for file in files.values()):
            time.sleep(self.poll_s / 2)
        return {
            rank: Place(**json.loads(file.read_text()))
            for rank, file in files.items()
            if file.exists()
        }

    def _await_end(self) -> None:
        until = time.monotonic() + LAST_RESORT_S
        while time.monotonic() < until and not (self.folder / "over").exists():
            time.sleep(self.poll_s / 2)


def name_suspect(places: Mapping[int, Place], n_ranks: int) -> str:
    """Say who is where, and which rank keeps the others waiting."""
    silent = [rank for rank in range(n_ranks) if rank not in places]
    told = [
        f"rank {p.rank} in {p.phase or 'no phase'} of step {p.step} since {p.phase_s:.0f} s"
        for p in sorted(places.values(), key=lambda p: (p.order, -p.phase_s))[:8]
    ]
    told += [f"{len(places) - 8} more ranks further on"] if len(places) > 8 else []
    behind = min((p.order for p in places.values()), default=None)
    suspects = silent or [p.rank for p in places.values() if p.order == behind]
    if silent:
        told.append(f"no answer from rank {', '.join(map(str, silent[:8]))}")
    if len(suspects) == n_ranks:
        return "; ".join([*told, "all ranks wait in the same place"])
    return "; ".join([f"suspect rank {', '.join(map(str, suspects[:8]))}", *told])


def claim(file: Path) -> bool:
    """Make a file; tell whether this rank was the first to do so."""
    try:
        file.open("x").close()
    except FileExistsError:
        return False
    return True


def write_stacks(path: Path, reason: str) -> None:
    """Write the Python stacks of all threads of this process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S %z')} {reason}\n")
        stream.flush()
        faulthandler.dump_traceback(file=stream, all_threads=True)


def write_flight_record(path: Path) -> None:
    """Write what NCCL's flight recorder has, where there is one; it may be what hangs."""
    bindings: Any = getattr(torch._C, "_distributed_c10d", None)
    dump = getattr(bindings, "_dump_nccl_trace_json", None)
    if dump is None or not torch.cuda.is_available():  # a build for CPUs has no NCCL
        return

    def write() -> None:
        with contextlib.suppress(Exception):  # private to torch: a help where it works
            path.write_bytes(dump())

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(FLIGHT_RECORDER_S)
