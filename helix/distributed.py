"""Ranks, seeds and sums over ranks; the same calls work in one process without a process group."""

import atexit
import contextlib
import functools
import hashlib
import math
import os
import random
import sys
from typing import NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


def is_initialized() -> bool:
    """Tell whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def join() -> None:
    """Meet the ranks that a launcher started beside this process, where it started any.

    The group is gloo's: what evaluations hand each other are numbers on the CPU. Training makes
    its own (helix.training.engine.join_ranks).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(local_device())
        dist.init_process_group("gloo")


def rank() -> int:
    """Give this process's number; 0 without a process group."""
    return dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    """Count the processes; 1 without a process group."""
    return dist.get_world_size() if is_initialized() else 1


def is_main() -> bool:
    """Tell whether this is the process that prints and writes what is written once."""
    return rank() == 0


def local_device() -> torch.device:
    """Give the accelerator of this process, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


@functools.cache
def host_group() -> dist.ProcessGroup | None:
    """Give the group that reduces tensors on the CPU; None stands for the default group.

    Numbers that a CPU has and a CPU needs go through it, so that no step waits for the GPU. All
    ranks call it, the first time together.
    """
    if dist.get_backend() == "gloo":
        return None
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)  # it is a number on ranks that are not of the group
    return group


def sum_over_ranks(values: Tensor) -> Tensor:
    """Add up a small tensor over all ranks, where it lies; every rank gets the sum."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total, group=host_group() if total.is_cpu else None)
    return total


def max_over_ranks(value: int) -> int:
    """Give the largest of one integer a rank, so that all ranks decide alike."""
    if world_size() == 1:
        return value
    largest = torch.tensor(value, dtype=torch.int64)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=host_group())
    return int(largest)


def greatest_over_ranks(value: float) -> float:
    """Give the largest of one number a rank; infinity where any is not a number."""
    value = math.inf if math.isnan(value) else value
    if world_size() == 1:
        return value
    largest = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=host_group())
    return float(largest)


def from_main(text: str) -> str:
    """Hand rank 0's text to every rank."""
    if world_size() == 1:
        return text
    held = [text]
    dist.broadcast_object_list(held, src=0)  # between our own ranks only: nothing foreign is read
    return held[0]


def gather(value: Value) -> list[Value]:
    """Hand every rank's value to every rank, in the order of ranks."""
    if world_size() == 1:
        return [value]
    held: list[Value] = [value] * world_size()
    dist.all_gather_object(held, value, group=host_group())  # as above: nothing foreign is read
    return held


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()


def leave(*, together: bool) -> bool:
    """Leave the process group; tell whether there was one.

    Args:
        together: Whether all ranks come here. One that fails alone leaves gloo's groups and none
            of NCCL's: those wait for the others.
    """
    if not is_initialized():
        return False
    if together or dist.get_backend() == "gloo":
        dist.destroy_process_group()
    elif host_group.cache_info().currsize:
        dist.destroy_process_group(host_group())
    host_group.cache_clear()
    return True


def end_process(status: int) -> NoReturn:
    """End a process that was in a process group, without Python's own end.

    Leaving a group ends none of gloo's threads while anything still holds it, and DeepSpeed holds
    it for as long as there is a process. A thread that frees a tensor while Python ends is killed
    where it stands (before Python 3.14), which C++ does not survive: "terminate called without an
    active exception", and a run that ended well is reported as failed (seen in 1 of some 100 runs
    of two ranks on a busy machine). What is registered to happen at the end happens here.
    """
    atexit._run_exitfuncs()
    with contextlib.suppress(BrokenPipeError):  # `| head` has seen enough
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def derive_seed(*parts: int | str) -> int:
    """Hash numbers and names to a 63-bit seed, the same on every machine and rank."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
