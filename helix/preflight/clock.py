"""Clock: do the nodes agree on the time? Deadlines, logs and file systems take it that they do."""

import time

import torch
import torch.distributed as dist

from helix.distributed import host_group
from helix.preflight.context import Context
from helix.preflight.findings import Facts, Seen

N_ROUND_TRIPS = 5
MAX_SPREAD_MS = 1000.0


def look_at_clock(context: Context) -> dict[str, float] | None:
    """Ask rank 0 for its time, over the host's group; the quickest round trip counts."""
    if context.world_size == 1:
        return None
    group, word = host_group(), torch.zeros(1, dtype=torch.float64)
    if context.rank == 0:
        for rank in range(1, context.world_size):
            for _ in range(N_ROUND_TRIPS):
                dist.recv(word, src=rank, group=group)
                word[0] = time.time()
                dist.send(word, dst=rank, group=group)
        return {"ahead_ms": 0.0, "round_trip_ms": 0.0}
    trips = []
    for _ in range(N_ROUND_TRIPS):
        asked = time.time()
        dist.send(word, dst=0, group=group)
        dist.recv(word, src=0, group=group)
        answered = time.time()
        ahead = (asked + answered) / 2 - float(word[0])
        trips.append((1000 * (answered - asked), 1000 * ahead))
    round_trip_ms, ahead_ms = min(trips)
    return {"ahead_ms": ahead_ms, "round_trip_ms": round_trip_ms}


def judge_clock(facts: Facts) -> Seen:
    """Warn where clocks are far apart."""
    ahead = {rank: told["ahead_ms"] for rank, told in facts.by_rank.items()}
    spread_ms = max(ahead.values()) - min(ahead.values())
    slowest_ms = max(told["round_trip_ms"] for told in facts.by_rank.values())
    found = f"{spread_ms:.1f} ms apart (round trips up to {slowest_ms:.1f} ms)"
    if spread_ms <= MAX_SPREAD_MS:
        return Seen(found)
    furthest = max(ahead, key=lambda rank: abs(ahead[rank]))
    return Seen(
        f"{found}; {facts.name([furthest])} is {ahead[furthest]:+.0f} ms from rank 0",
        "warning",
        "let the nodes take their time from one server (chronyc tracking, timedatectl)",
    )
