"""Disk: can every node write into the run folder, how fast, is there room, and is it one folder?"""

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

from helix import distributed
from helix.config import ConfigError, RunConfig
from helix.preflight.context import Context
from helix.preflight.findings import Facts, Seen
from helix.preflight.memory import CHECKPOINT_BYTES, GIB, n_parameters
from helix.training.checkpoint import checkpoints_dir

MIB = 2**20
WRITTEN_MIB = 4, 64  # at the least and at the most; between them as much as a checkpoint
LONG_SAVE_S = 600.0
SEEN_WITHIN_S = 30.0  # a network file system may show a name to others only after seconds
FEW_INODES = 10_000
OWN = ".preflight-"  # begins the names of our files in the run folder


def run_folder(context: Context) -> Path:
    """Give the run's folder, made where it is missing, as training makes it."""
    run_dir = context.of_run.run_dir
    if not run_dir:
        raise ConfigError("run_dir=: not given; say where the run keeps its files")
    folder = Path(run_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"run_dir={run_dir}: cannot be made ({error.strerror}); give one that can be written"
        ) from error
    return folder


def look_at_writing(context: Context) -> dict[str, Any] | None:
    """Write, sync, rename and read back a file, on each node at the same time."""
    if context.number_on_node:
        return None
    folder = run_folder(context)
    n_bytes = CHECKPOINT_BYTES * n_parameters(context)
    least, most = WRITTEN_MIB
    n_mib = min(most, max(least, n_bytes // MIB))
    try:
        seconds = write_and_read(folder / f"{OWN}{context.host}-{context.rank}", n_mib)
    except OSError as error:
        raise OSError(
            f"run_dir={folder}: {n_mib} MiB cannot be written ({error.strerror or error}); free "
            "some space there, or give a run_dir that can be written"
        ) from error
    return {"mib_per_s": n_mib / seconds, "checkpoint_bytes": n_bytes}


def write_and_read(whole: Path, n_mib: int) -> float:
    """Write a file as checkpoints are written, hold it to what was meant, and remove it.

    Returns:
        The seconds until it was safe on the disk.
    """
    partial, block = whole.with_name(f"{whole.name}.partial"), os.urandom(MIB)
    started = time.monotonic()
    try:
        with partial.open("wb") as file:
            for _ in range(n_mib):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(whole)
        seconds = time.monotonic() - started
        with whole.open("rb") as file:
            is_same = all(file.read(MIB) == block for _ in range(n_mib))
    finally:
        for file in (partial, whole):
            with contextlib.suppress(OSError):  # of a disk that is broken, the first error tells
                file.unlink(missing_ok=True)
    if not is_same:
        raise OSError("what was written reads otherwise")
    return seconds


def judge_writing(facts: Facts) -> Seen:
    """Add up what the nodes wrote at a time, and say what a checkpoint takes at that."""
    speeds = {rank: told["mib_per_s"] for rank, told in facts.by_rank.items()}
    total = sum(speeds.values())
    slowest = min(speeds, key=lambda rank: speeds[rank])
    n_bytes = facts.by_rank[slowest]["checkpoint_bytes"]
    save_s = n_bytes / MIB / total
    each = f", the slowest {facts.name([slowest])}" if len(speeds) > 1 else ""
    found = (
        f"{total:,.0f} MiB/s with fsync{each}; a checkpoint of {n_bytes / GIB:.2f} GiB "
        f"takes about {save_s:.1f} s"
    )
    if save_s > LONG_SAVE_S:
        advice = "choose a faster file system for run_dir, or save less often"
        return Seen(found, "warning", advice)
    return Seen(found)


def look_at_room(context: Context) -> Seen | None:
    """Hold what the run will keep, and one more that is being written, to the room there is."""
    if context.number_on_node:
        return None
    folder = run_folder(context)
    status = os.statvfs(folder)
    if status.f_flag & os.ST_RDONLY:
        return Seen(f"{folder}: mounted read-only", "FAILED", "give a run_dir that can be written")
    number, n_bytes = n_kept(context.of_run), CHECKPOINT_BYTES * n_parameters(context)
    saved = checkpoints_dir(folder)
    there = sum(file.stat().st_size for file in saved.rglob("*") if file.is_file())
    need, free = number * n_bytes - there, shutil.disk_usage(folder).free
    found = f"{free / GIB:.2f} GiB free, {number} checkpoints of {n_bytes / GIB:.2f} GiB to come"
    if need > free:
        advice = (
            "free some space, give another run_dir, or keep fewer (training.keep_checkpoints, "
            "keep_every_steps, keep_best)"
        )
        return Seen(found, "FAILED", advice)
    if status.f_files and status.f_favail < FEW_INODES:  # some file systems have no fixed number
        advice = "remove small files, or give another run_dir"
        return Seen(f"{found}; only {status.f_favail:,} inodes left", "warning", advice)
    return Seen(found)


def n_kept(run: RunConfig) -> int:
    """Count the checkpoints that lie on the disk at the most, with the one being written."""
    training = run.training
    for_ever = training.n_steps // training.keep_every_steps if training.keep_every_steps else 0
    return training.keep_checkpoints + training.keep_best + for_ever + 1


def look_at_sharing(context: Context) -> dict[str, Any] | None:
    """Rank 0 leaves a file in the run folder; every rank looks for it there."""
    if context.world_size == 1:
        return None
    wait_s = min(SEEN_WITHIN_S, context.options.timeout_s / 2)
    if context.rank == 0:
        return leave_token(context, wait_s)
    name = context.board.read("token", timeout_s=wait_s)
    if not name:
        return None
    started = time.monotonic()
    folder = Path(context.of_run.run_dir)
    try:
        while not (is_seen := is_there(folder, name)) and time.monotonic() - started < wait_s:
            time.sleep(0.05)
    finally:
        context.board.post(f"token/{context.rank}", True)
    return {"after_s": time.monotonic() - started if is_seen else None}


def leave_token(context: Context, wait_s: float) -> dict[str, Any]:
    """Write a file under a name that was never asked for, so that no cache has it as missing."""
    name = f"{OWN}{os.urandom(8).hex()}"
    try:
        file = run_folder(context) / name
        file.write_text(name, encoding="utf-8")
    except OSError:
        context.board.post("token", "")  # nobody need look for it
        raise
    context.board.post("token", name)
    with contextlib.suppress(TimeoutError):  # a rank's own answer, or its silence, tells
        for rank in range(1, context.world_size):
            context.board.read(f"token/{rank}", timeout_s=wait_s + 5)
    file.unlink(missing_ok=True)
    return {"after_s": 0.0}


def is_there(folder: Path, name: str) -> bool:
    """Read a file that another node wrote."""
    try:
        return (folder / name).read_text(encoding="utf-8") == name
    except OSError:
        return False


def judge_sharing(facts: Facts) -> Seen:
    """Refuse a folder that is another one on some node."""
    blind = [rank for rank, told in facts.by_rank.items() if told["after_s"] is None]
    if blind:
        return Seen(
            f"{facts.name(blind)}: does not see what rank 0 wrote",
            "FAILED",
            "put run_dir on a file system that all nodes share",
        )
    latest_s = max(told["after_s"] for told in facts.by_rank.values())
    return Seen(f"all ranks see what rank 0 writes, after {latest_s:.2f} s at the most")


def tidy(context: Context) -> None:
    """Take away a run folder that only these checks made."""
    if context.run and context.run.run_dir and distributed.is_main():
        with contextlib.suppress(OSError):  # it holds something, or cannot be removed
            Path(context.run.run_dir).rmdir()
