"""Lost peers: telling a rank that went away from an error of ours, and what then is to be done."""

import re
import time
import traceback
from pathlib import Path

import torch.distributed as dist

from helix import distributed
from helix.config import first_line
from helix.training.requeue import requeue_once

# gloo and the store raise plain RuntimeErrors: their words, as torch 2.13 has them.
WORDS = re.compile(
    r"Connection closed by peer|Connection reset by peer|Broken pipe|Connection refused"
    r"|Timed out waiting \d+ms|Socket Timeout|wait timeout after|NCCL error|gloo/transport"
)
OURS = "enforce fail"  # gloo's word for ranks that send different things: a bug, not a loss
FAILED = "failed"  # rank-R.failed: a rank that ends for a reason of its own says so here
MARK_S = 3.0  # a shared file system shows it to the others by then


class LostPeerError(RuntimeError):
    """Another rank went away: the same command may succeed. The message says what was seen."""


class PeerFailedError(RuntimeError):
    """Another rank failed for a reason of its own, which it tells itself."""


def is_lost_peer(error: BaseException) -> bool:
    """Tell an error of the connection between ranks from all others."""
    if isinstance(error, dist.DistError):
        return True
    told = str(error)
    return isinstance(error, RuntimeError) and OURS not in told and bool(WORDS.search(told))


def meeting_place(run_dir: str | Path, attempt: int) -> Path:
    """Choose the folder where ranks leave word for each other, one that no start used before."""
    stacks = Path(run_dir) / "stacks"
    name = f"attempt-{attempt}"
    if distributed.is_main():
        number = 1
        while (stacks / name).exists():
            number += 1
            name = f"attempt-{attempt}-{number}"
    return stacks / distributed.from_main(name)


def tell_failure(error: BaseException, folder: Path) -> None:
    """Leave word of an error of our own, so that the other ranks do not try again for nothing."""
    if distributed.world_size() == 1:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rank-{distributed.rank()}.{FAILED}").write_text(first_line(error))
    except OSError:
        pass  # the error itself is told


def explain_lost_peer(error: BaseException, folder: Path, *, place: str) -> Exception:
    """Write the traceback down, requeue where that helps, and give the error to end with.

    Each rank that is left may come here, and the first to do so requeues: nothing that the lost
    one would have to answer is asked.
    """
    rank = distributed.rank()
    told = f"rank {rank} lost another rank in {place}: {first_line(error)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rank-{rank}.error.txt").write_text("".join(traceback.format_exception(error)))
        told += f"; details: {folder}"
    except OSError:
        pass  # what counts is the status
    failed = await_mark(folder)
    if failed is not None:
        return PeerFailedError(f"{failed.stem} failed: {failed.read_text()}")
    is_requeued = requeue_once(folder / "requeued")
    return LostPeerError(told + ("" if is_requeued else "; the same command goes on"))


def await_mark(folder: Path) -> Path | None:
    """Find the word that a rank left of an error of its own, waiting a moment for it."""
    until = time.monotonic() + MARK_S
    while True:
        marks = sorted(folder.glob(f"rank-*.{FAILED}"))
        if marks or time.monotonic() > until:
            return marks[0] if marks else None
        time.sleep(0.2)
