"""Writing a checkpoint beside the training: a snapshot, a thread, and an agreement of all ranks.

    start    all ranks agree on the folder; each copies what it owns to host memory
    (training goes on)
    (thread) each rank writes and hashes its files
    poll     between steps, once all have: rank 0 seals in its thread (state, manifest, rename,
             pointer, pruning)
    poll     once it has: the checkpoint is whole, on every rank

A thread takes part in no collective: those of training would meet them in any order.
"""

import json
import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from helix import distributed
from helix.training.checkpoint.files import (
    STATE,
    CheckpointError,
    Described,
    Entry,
    checkpoints_dir,
    sync,
    write_json,
    write_manifest,
    write_tensors,
)
from helix.training.checkpoint.reading import (
    Progress,
    State,
    engine_shapes,
    expected,
    first_gap,
    is_intact,
    read_state,
)
from helix.training.checkpoint.retention import Retention, point_to, prune
from helix.training.engine import MOMENTS, Engine
from helix.training.fragments import HeldFile, Snapshot

THERE = "there"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a checkpoint cost; the same on every rank, but for the stall.

    Attributes:
        stall_ms: How long this rank's training stood still for it.
        wait_ms: Of that, until it was whole, as the next one or the end of the run came before.
        write_s: From the question to a whole checkpoint, less the steps that were waited for.
        gib: Of all its files.
    """

    step: int
    stall_ms: float
    wait_ms: float
    write_s: float
    gib: float

    def figures(self) -> dict[str, float]:
        """Name the figures for the metrics."""
        return {
            "checkpoint/stall_ms": self.stall_ms,
            "checkpoint/wait_ms": self.wait_ms,
            "checkpoint/write_s": self.write_s,
            "checkpoint/gib": self.gib,
        }


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one rank has written.

    Attributes:
        ranges: First element and number of elements of each run, by tensor.
        problem: Why it could not; empty if it could.
    """

    files: dict[str, Described] = field(default_factory=dict)
    ranges: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    seconds: float = 0.0
    problem: str = ""


@dataclass(kw_only=True)
class UnderWay:
    """A checkpoint that is not whole yet."""

    state: State
    final: Path
    job: "Future[Share]"
    is_sealing: bool = False
    stall_s: float = 0.0
    wait_s: float = 0.0
    write_s: float = 0.0
    n_bytes: int = 0


class Saver:
    """Saves a run's checkpoints, one at a time. Use it in a `with`, or close it.

    All ranks call `start`, `poll` and `finish` together. An asynchronous saver keeps host memory
    for a copy of what this rank owns: 12 bytes a parameter, over the number of ranks. One that is
    not holds a file's worth, and training stands still until the checkpoint is whole.

    Attributes:
        longest_save_s: Of those of this process, the same on every rank; 0 before the first.
    """

    def __init__(
        self, run_dir: str | Path, retention: Retention, *, is_asynchronous: bool = True
    ) -> None:
        self.run_dir = run_dir
        self.retention = retention
        self.is_asynchronous = is_asynchronous
        self.longest_save_s = 0.0
        self.snapshot = Snapshot()
        self.under_way: UnderWay | None = None
        self.unseen: list[Cost] = []
        self.whole: tuple[Path, Progress] | None = None
        self.thread = ThreadPoolExecutor(1, "helix-save")
        self.cancelled = threading.Event()
        self.has_told = False

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def reserve(self, engine: Engine) -> None:
        """Pin the host memory before training, where it is pinned."""
        if self.is_asynchronous and engine.device.type == "cuda":
            self.snapshot.reserve(engine)

    def start(self, engine: Engine, progress: Progress) -> Path:
        """Begin a checkpoint of this moment; give the folder that it will have.

        Waits for the one under way. Where this step's is there and intact, nothing is done.

        Raises:
            CheckpointError: On every rank, if the one under way could not be written, or if no
                folder can be made.
        """
        self._tell_of_waiting(progress.step)
        self.finish_pending()
        started = time.perf_counter()
        final = checkpoints_dir(self.run_dir) / f"step-{progress.step:08d}"
        if self._is_there(final, progress):
            return final
        saving = UnderWay(state=state_of(engine, progress), final=final, job=Future())
        self._write(engine, saving)
        saving.stall_s = saving.write_s = time.perf_counter() - started
        self.under_way = saving
        if not self.is_asynchronous:
            saving.write_s -= saving.job.result().seconds  # told with those of all ranks
            self.finish_pending()
        return final

    def poll(self) -> list[Cost]:
        """Take the save that is under way a step on, if all ranks are ready for it; never wait.

        Returns:
            What the checkpoints cost that have become whole since the last call.

        Raises:
            CheckpointError: On every rank, if any could not write its share.
        """
        if self.under_way is not None:
            self._advance(self.under_way)
        costs, self.unseen = self.unseen, []
        return costs

    def finish(self) -> list[Cost]:
        """Wait until the save under way is whole; otherwise as `poll`."""
        self.finish_pending()
        return self.poll()

    def finish_pending(self) -> None:
        """Wait as `finish` does, and leave the costs to the next call that asks for them."""
        while self.under_way is not None:
            started = time.perf_counter()
            wait([self.under_way.job])
            waited_s = time.perf_counter() - started
            self.under_way.stall_s += waited_s
            self.under_way.wait_s += waited_s
            self._advance(self.under_way)

    def close(self) -> None:
        """Give up what is not whole yet, on this rank alone, and end the thread."""
        self.cancelled.set()
        self.thread.shutdown(wait=True)

    def _advance(self, saving: UnderWay) -> None:
        started = time.perf_counter()
        is_ready = not distributed.max_over_ranks(int(not saving.job.done()))
        if is_ready and saving.is_sealing:
            self._conclude(saving, started)
        elif is_ready:
            self._gather(saving)
        saving.stall_s += time.perf_counter() - started

    def _is_there(self, final: Path, progress: Progress) -> bool:
        if (final, progress) == self.whole:
            return True
        hindrance = open_folder(final, progress) if distributed.is_main() else ""
        hindrance = distributed.from_main(hindrance)
        if hindrance not in ("", THERE):
            raise not_written(final, hindrance)
        return hindrance == THERE

    def _tell_of_waiting(self, step: int) -> None:
        if self.under_way is None or self.has_told or not distributed.is_main():
            return
        self.has_told = True
        print(
            f"helix: step {step}: waits for {self.under_way.final.name}, which is still being "
            "written; saves are asked for faster than they end",
            file=sys.stderr,
        )

    def _write(self, engine: Engine, saving: UnderWay) -> None:
        partial, is_cancelled = partial_of(saving.final), self.cancelled.is_set
        saving.job = Future()
        if not self.is_asynchronous:
            held = self.snapshot.stream(engine)
            saving.job.set_result(settle(write_share, partial, held, is_cancelled))
            return
        try:
            held = self.snapshot.take(engine)
        except (RuntimeError, MemoryError) as error:  # told where all ranks meet again
            problem = f"no copy in host memory: {error}; set training.async_checkpoints=false"
            saving.job.set_result(Share(problem=problem))
        else:
            saving.job = self.thread.submit(settle, write_share, partial, held, is_cancelled)

    def _gather(self, saving: UnderWay) -> None:
        """Hear what all ranks have written; rank 0 then seals."""
        shares = distributed.gather(saving.job.result())
        problem = next((share.problem for share in shares if share.problem), "")
        problem = problem or find_gap(shares, saving.state)
        if problem:
            self._fail(saving, problem)
        files = {name: about for share in shares for name, about in share.files.items()}
        saving.is_sealing = True
        saving.n_bytes = sum(about.n_bytes for about in files.values())
        saving.write_s += max(share.seconds for share in shares)
        saving.job = Future()
        if distributed.is_main():
            saving.job = self.thread.submit(
                settle, seal, saving.final, files, saving.state, self.retention
            )
        else:
            saving.job.set_result(Share())

    def _conclude(self, saving: UnderWay, started: float) -> None:
        """Hear from rank 0 that the checkpoint is whole."""
        sealed = saving.job.result()
        words = json.dumps([sealed.problem, saving.write_s + sealed.seconds])
        problem, seconds = json.loads(distributed.from_main(words))
        if problem:
            self._fail(saving, problem)
        self.under_way = None
        self.whole = saving.final, saving.state.progress
        self.longest_save_s = max(self.longest_save_s, seconds)
        stall_s = saving.stall_s + time.perf_counter() - started
        self.unseen.append(
            Cost(
                step=saving.state.progress.step,
                stall_ms=stall_s * 1e3,
                wait_ms=saving.wait_s * 1e3,
                write_s=seconds,
                gib=saving.n_bytes / 2**30,
            )
        )

    def _fail(self, saving: UnderWay, problem: str) -> None:
        self.under_way = None
        if distributed.is_main():
            shutil.rmtree(partial_of(saving.final), ignore_errors=True)
        raise not_written(saving.final, problem)


def not_written(final: Path, problem: str) -> CheckpointError:
    """Say that a checkpoint could not be written, and what to do."""
    return CheckpointError(
        f"{final}: not written: {problem}; earlier checkpoints are untouched: free some space and "
        "run the same command again"
    )


def save(engine: Engine, run_dir: str | Path, progress: Progress, *, keep: int) -> Path:
    """Write a checkpoint on all ranks together, point to it, and drop the oldest beyond `keep`.

    A kill at any moment leaves the checkpoint that was pointed to before untouched.

    Raises:
        CheckpointError: On every rank, if any rank could not write its share.
    """
    with Saver(run_dir, Retention(last=keep), is_asynchronous=False) as saver:
        return saver.start(engine, progress)


def state_of(engine: Engine, progress: Progress) -> State:
    """Describe the moment that is saved."""
    shapes = {name: list(shape) for name, shape in engine_shapes(engine).items()}
    return State(progress=progress, n_updates=engine.n_updates, shapes=shapes)


def settle(work: Callable[..., Share], *arguments: Any) -> Share:
    """Do a thread's work; what goes wrong is told to all ranks, and raised where they meet."""
    started = time.perf_counter()
    try:
        share = work(*arguments)
    except Exception as error:
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        return Share(problem=f"{kind}{error}" or type(error).__name__)
    return Share(files=share.files, ranges=share.ranges, seconds=time.perf_counter() - started)


def write_share(partial: Path, held: Iterable[HeldFile], is_cancelled: Callable[[], bool]) -> Share:
    """Write this rank's files."""
    partial.mkdir(parents=True, exist_ok=True)  # each by itself: a network disk is slow to tell
    files: dict[str, Described] = {}
    ranges: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for file in held:
        entries = [Entry(key=key, dtype=torch.float32, shape=(n,)) for key, n in file.entries]
        files[file.name] = write_tensors(
            partial / file.name, entries, [file.body], is_cancelled=is_cancelled
        )
        for key, n_elements in file.entries:
            name, _, offset = key.rpartition("@")
            ranges[name].append((int(offset), n_elements))
    return Share(files=files, ranges=dict(ranges))


def find_gap(shares: list[Share], state: State) -> str:
    """Hold what was written to the model; describe what could not be loaded again."""
    ranges: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for share in shares:
        for name, runs in share.ranges.items():
            ranges[name] += runs
    return first_gap(expected(state, MOMENTS if state.n_updates else ()), ranges)


def open_folder(final: Path, progress: Progress) -> str:
    """Clear away what a kill left; give why this cannot be written, THERE if it need not be."""
    try:
        if final.exists() and is_intact(final) and is_of(final, progress):
            return THERE
        for left_by_a_kill in final.parent.glob(".partial-*"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        partial_of(final).mkdir(parents=True)
    except OSError as error:
        return str(error)
    return ""


def is_of(final: Path, progress: Progress) -> bool:
    """Tell whether a checkpoint is of this very state, and not of a step that was taken again."""
    saved = asdict(read_state(final).progress)
    return saved == json.loads(json.dumps(asdict(progress)))


def partial_of(final: Path) -> Path:
    """Say where a checkpoint is written before it is whole."""
    return final.with_name(f".partial-{final.name}")


def seal(final: Path, files: dict[str, Described], state: State, retention: Retention) -> Share:
    """Make what all ranks have written a checkpoint: vouch for it, rename, point to it, prune."""
    partial = partial_of(final)
    about = {**asdict(state.progress), "n_updates": state.n_updates, "shapes": state.shapes}
    described = write_json(partial / STATE, about)
    write_manifest(partial, {**files, STATE: described})
    sync(partial)
    if final.exists():  # damaged, or of a step that was taken again
        shutil.rmtree(final)
    partial.rename(final)
    sync(final.parent)
    point_to(final)
    prune(final, retention, incidents=state.progress.guard.get("incidents", ()))
    return Share()
