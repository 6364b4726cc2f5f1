"""Memory: does what `helix plan` estimates fit into what is free on the device and on the host?"""

from pathlib import Path
from typing import Any

import torch

from helix.plan.memory import memory_gib_by_part
from helix.preflight.context import Context
from helix.preflight.findings import Facts, Seen
from helix.training.ds_settings import compose_ds_config

GIB = 2**30
CHECKPOINT_BYTES = 12  # a parameter: fp32 weight and two moments
TIGHT = 0.9  # of what is free; fragmentation and communication buffers come on top of a plan
# Of a group of processes: the limit, what it holds, and which line of memory.stat it would give up.
FILES = "memory.max", "memory.current", "inactive_file"
OLD_FILES = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
OFFLOADED = {"offload_optimizer": "optimizer", "offload_param": "weights"}


def n_parameters(context: Context) -> int:
    """Count the run's parameters."""
    return sum(context.of_run.model.parameters_by_part().values())


def estimate(context: Context) -> tuple[float, float]:
    """Estimate what one rank's training holds, in GiB: on the device, and offloaded to the host."""
    run = context.of_run
    zero = compose_ds_config(run, context.world_size).get("zero_optimization", {})
    parts = memory_gib_by_part(
        run.model,
        n_gpus=context.world_size,
        zero_stage=zero.get("stage", 0),
        precision=run.training.precision,
        rows=run.training.micro_batch_rows,
        n_context=run.data.n_context,
    )
    offloaded = [
        parts[part]
        for key, part in OFFLOADED.items()
        if zero.get(key, {}).get("device", "none") != "none"
    ]
    return sum(parts.values()) - sum(offloaded), sum(offloaded)


def look_at_device(context: Context) -> Seen | None:
    """Hold the estimate to what the GPU has free."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.empty_cache()
    free, total = (n_bytes / GIB for n_bytes in torch.cuda.mem_get_info())
    need, _ = estimate(context)
    return fits(need, free, f"{free:.1f} GiB free of {total:.1f}", advice=(
        "give a smaller training.micro_batch_rows, model.recompute=selective, a higher ZeRO stage "
        "or more GPUs; nvidia-smi shows who else holds memory"
    ))  # fmt: skip


def look_at_host(context: Context) -> dict[str, Any]:
    """Size what a rank holds on the host at the most, and find what the host has left."""
    run = context.of_run
    on_device, offloaded = estimate(context)
    number = n_parameters(context)
    copy = CHECKPOINT_BYTES * number / context.world_size / GIB
    held = (copy if run.training.async_checkpoints else 0.0) + offloaded
    if not torch.cuda.is_available():
        held += on_device
    built = 4 * number / GIB  # each rank makes the model in fp32 on the host first
    return {"need_gib": max(held, built), "free_gib": free_host_gib(), "host": context.host}


def judge_host(facts: Facts) -> Seen:
    """Hold the sum over a node's ranks to what the node has; give the tightest node."""
    nodes: dict[str, list[dict[str, Any]]] = {}
    for told in facts.by_rank.values():
        nodes.setdefault(told["host"], []).append(told)
    fullest = max(nodes.values(), key=lambda ranks: need_of(ranks) / max(least_of(ranks), 1e-9))
    need, free = need_of(fullest), least_of(fullest)
    where = f" on {fullest[0]['host']}" if len(nodes) > 1 else ""
    return fits(need, free, f"{free:.1f} GiB available{where} to {len(fullest)} ranks", advice=(
        "ask the scheduler for more memory, set training.async_checkpoints=false, or run fewer "
        "ranks a node"
    ))  # fmt: skip


def need_of(ranks: list[dict[str, Any]]) -> float:
    """Add up what a node's ranks need."""
    return sum(told["need_gib"] for told in ranks)


def least_of(ranks: list[dict[str, Any]]) -> float:
    """Give the least that one of a node's ranks found."""
    return min(told["free_gib"] for told in ranks)


def fits(need_gib: float, free_gib: float, free: str, *, advice: str) -> Seen:
    """Judge an estimate by what is free."""
    found = f"needs about {need_gib:.2f} GiB, {free}"
    if need_gib > free_gib:
        return Seen(found, "FAILED", advice)
    return Seen(found, "warning", advice) if need_gib > TIGHT * free_gib else Seen(found)


def free_host_gib() -> float:
    """Give what the host can still hand out to this job: its own memory, and the job's limit."""
    fields = dict(
        line.split(":") for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    available = int(fields["MemAvailable"].split()[0]) * 1024
    return min([available, *left_in_cgroups()]) / GIB


def left_in_cgroups(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Give what is left of each limit on memory that this process is under, of either version."""
    left = []
    for line in read_words(Path("/proc/self/cgroup")).splitlines():
        _, kinds, path = line.split(":", 2)
        is_old = "memory" in kinds.split(",")
        if kinds and not is_old:
            continue
        top = root / "memory" if is_old else root
        limit, used, cached = OLD_FILES if is_old else FILES
        inside = [] if ".." in path else Path(path.lstrip("/")).parts  # as a container sees it
        for depth in range(len(inside) + 1):
            folder = top.joinpath(*inside[:depth])
            words = read_words(folder / limit), read_words(folder / used)
            if all(word.isdecimal() for word in words):
                left.append(int(words[0]) - int(words[1]) + reclaimable(folder, cached))
    return left


def reclaimable(folder: Path, cached: str) -> int:
    """Give the bytes of cached files that a group would give up."""
    lines = read_words(folder / "memory.stat").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{cached} "))


def read_words(file: Path) -> str:
    """Read a file of the kernel; empty where there is none."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
