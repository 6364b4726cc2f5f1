"""Communication: are sums right, how fast do ranks talk, and between which two is it slowest?"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from helix.distributed import host_group, local_device
from helix.preflight.context import Context
from helix.preflight.findings import Facts, Seen

MIB = 2**20
SIZES_MIB = {"nccl": (1, 64), "gloo": (1, 8)}
N_REPEATS = 3
N_BARRIERS = 20
SLOW_LINK = 0.5  # of the median of all links
SLOW_BARRIER_MS = 50.0
BROKEN = "look at the network between the nodes (NCCL_DEBUG=INFO tells what NCCL takes)"


def look_at_collectives(context: Context) -> dict[str, Any] | None:
    """Run each collective that training uses, check every number, and time it."""
    if context.world_size == 1:
        return None
    backend = str(dist.get_backend())
    bytes_per_s: dict[str, float] = {}
    wrong = []
    for size_mib in SIZES_MIB.get(backend, SIZES_MIB["gloo"]):
        for name, run in (("all_reduce", sum_up), ("broadcast", spread), ("all_gather", gather)):
            is_right, seconds = run(context, size_mib * MIB // 4)
            wrong += [] if is_right else [f"{name} of {size_mib} MiB"]
            bytes_per_s[f"{name} {size_mib} MiB"] = size_mib * MIB / seconds
    return {"backend": backend, "wrong": wrong, "bytes_per_s": bytes_per_s}


def judge_collectives(facts: Facts) -> Seen:
    """Name what came out wrong; tell the speed of the slowest rank."""
    wrong = {rank: told["wrong"] for rank, told in facts.by_rank.items() if told["wrong"]}
    if wrong:
        what = ", ".join(dict.fromkeys(name for names in wrong.values() for name in names))
        return Seen(f"{facts.name(wrong)}: wrong numbers from {what}", "FAILED", BROKEN)
    tables = [told["bytes_per_s"] for told in facts.by_rank.values()]
    speeds = {name: min(table[name] for table in tables) / 2**30 for name in tables[0]}
    listed = ", ".join(f"{name} {speed:.2f}" for name, speed in speeds.items())
    return Seen(f"{facts.by_rank[0]['backend']}, right; GiB/s: {listed}")


def sum_up(context: Context, n: int) -> tuple[bool, float]:
    """Add up what ranks hold."""
    held = torch.empty(n, device=local_device())
    n_ranks = context.world_size

    def run() -> None:
        held.fill_(context.rank + 1)
        dist.all_reduce(held)

    seconds = timed(run)
    return bool((held == n_ranks * (n_ranks + 1) / 2).all()), seconds


def spread(context: Context, n: int) -> tuple[bool, float]:
    """Hand out what the last rank holds."""
    source = context.world_size - 1
    held = torch.empty(n, device=local_device())
    pattern = torch.arange(n, device=local_device()) % 997.0

    def run() -> None:
        held.copy_(pattern if context.rank == source else torch.zeros_like(pattern))
        dist.broadcast(held, src=source)

    seconds = timed(run)
    return bool((held == pattern).all()), seconds


def gather(context: Context, n: int) -> tuple[bool, float]:
    """Give every rank what all hold, as many bytes in all as the others send."""
    n_each = max(1, n // context.world_size)
    own = torch.full((n_each,), float(context.rank + 1), device=local_device())
    parts = [torch.zeros_like(own) for _ in range(context.world_size)]
    seconds = timed(lambda: dist.all_gather(parts, own))
    return all(bool((part == rank + 1).all()) for rank, part in enumerate(parts)), seconds


def timed(run: Callable[[], Any]) -> float:
    """Give the median time of a collective, after one that warms up."""
    times = []
    for number in range(1 + N_REPEATS):
        settle()
        started = time.perf_counter()
        run()
        settle()
        if number:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def settle() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def look_at_links(context: Context) -> float | None:
    """Send to the next rank while the one before sends to us; give the bytes a second."""
    if context.world_size == 1:
        return None
    n = SIZES_MIB.get(str(dist.get_backend()), SIZES_MIB["gloo"])[-1] * MIB // 4
    before, after = ((context.rank + step) % context.world_size for step in (-1, 1))
    sent, received = torch.ones(n, device=local_device()), torch.empty(n, device=local_device())
    seconds = timed(lambda: exchange(sent, received, before=before, after=after))
    if not bool((received == 1).all()):
        raise RuntimeError(f"what rank {before} sent came otherwise; {BROKEN}")
    return 4 * n / seconds


def exchange(sent: Tensor, received: Tensor, *, before: int, after: int) -> None:
    """Send one tensor on and take one, at the same time."""
    operations = [
        dist.P2POp(dist.isend, sent, after),
        dist.P2POp(dist.irecv, received, before),
    ]
    for work in dist.batch_isend_irecv(operations):
        work.wait()


def judge_links(facts: Facts) -> Seen:
    """Name the slowest of the links from each rank to the next."""
    speeds = facts.by_rank
    slowest = min(speeds, key=lambda rank: speeds[rank])
    before = (slowest - 1) % len(speeds)
    median = statistics.median(speeds.values())
    found = (
        f"from each rank to the next: median {median / 2**30:.2f} GiB/s, slowest "
        f"{before} to {slowest} with {speeds[slowest] / 2**30:.2f}"
    )
    if len(speeds) > 2 and speeds[slowest] < SLOW_LINK * median:
        who = facts.name([before, slowest])
        return Seen(found, "warning", f"look at the link between {who}, or leave a node out")
    return Seen(found)


def look_at_host_group(context: Context) -> dict[str, Any] | None:
    """Add up integers on the CPUs, and time barriers."""
    if context.world_size == 1:
        return None
    group, n_ranks = host_group(), context.world_size
    total = torch.tensor([context.rank + 1, 2**40], dtype=torch.int64)
    dist.all_reduce(total, group=group)
    is_right = total.tolist() == [n_ranks * (n_ranks + 1) // 2, n_ranks * 2**40]
    times = []
    for _ in range(N_BARRIERS):
        started = time.perf_counter()
        dist.all_reduce(torch.zeros(1), group=group)
        times.append(time.perf_counter() - started)
    return {"is_right": is_right, "barrier_ms": 1000 * statistics.median(times)}


def judge_host_group(facts: Facts) -> Seen:
    """Refuse wrong sums; warn of slow meetings."""
    wrong = [rank for rank, told in facts.by_rank.items() if not told["is_right"]]
    if wrong:
        return Seen(f"{facts.name(wrong)}: wrong sums", "FAILED", BROKEN)
    slowest_ms = max(told["barrier_ms"] for told in facts.by_rank.values())
    found = f"gloo on the CPUs: sums right, ranks meet in {slowest_ms:.2f} ms"
    if slowest_ms > SLOW_BARRIER_MS:
        return Seen(found, "warning", f"each step waits so long; {BROKEN}")
    return Seen(found)
