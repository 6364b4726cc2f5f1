"""Pace: finds the rank that keeps the others waiting.

In a collective all ranks take the time of the slowest, so each one's own time is compared: what it
spends on its batch and on its forward passes. At ZeRO-3 the latter hold collectives too, and only
the former tells.
"""

import sys
import time
from dataclasses import dataclass
from statistics import median_low

import torch

from helix import distributed
from helix.config import WatchdogConfig

LEAST_SHARE = 0.05  # of a step: a rank that is late by less costs nobody anything


@dataclass(frozen=True, kw_only=True)
class Slowest:
    """The rank with the most time of its own, and how many times the median's that is."""

    rank: int
    ratio: float


class Pace:
    """Gathers the own times of ranks every some steps, and names one that stays slow."""

    def __init__(self, config: WatchdogConfig) -> None:
        self.config = config
        self.own_ms = 0.0
        self.step_ms = 0.0
        self.n_steps = 0
        self.slow: tuple[int, int] = (-1, 0)  # a rank, and the comparisons that it lost in a row

    def note(self, own_ms: float, step_ms: float) -> Slowest | None:
        """Note the times of a step; where ranks are compared now, give the slowest.

        All ranks call it once a step.
        """
        if distributed.world_size() == 1 or not self.config.compare_every_steps:
            return None
        self.own_ms, self.step_ms = self.own_ms + own_ms, self.step_ms + step_ms
        self.n_steps += 1
        if self.n_steps < self.config.compare_every_steps:
            return None
        times = torch.zeros(distributed.world_size(), dtype=torch.float64)
        times[distributed.rank()] = self.own_ms
        found = self.judge(distributed.sum_over_ranks(times).tolist(), self.step_ms)
        self.own_ms, self.step_ms, self.n_steps = 0.0, 0.0, 0
        return found

    def judge(self, times: list[float], step_ms: float) -> Slowest:
        """Find the slowest of some times, and name it where it has been so for long."""
        rank = max(range(len(times)), key=times.__getitem__)
        middle = median_low(times)
        found = Slowest(rank=rank, ratio=times[rank] / middle if middle > 0 else 1.0)
        is_slow = found.ratio > self.config.slow_ratio
        is_slow = is_slow and times[rank] - middle > LEAST_SHARE * step_ms
        n_in_a_row = self.slow[1] + 1 if rank == self.slow[0] else 1
        self.slow = (rank, n_in_a_row) if is_slow else (-1, 0)
        if self.slow[1] == self.config.slow_comparisons and distributed.is_main():
            n_steps = self.config.slow_comparisons * self.config.compare_every_steps
            print(
                f"helix: rank {rank} is slow: {found.ratio:.1f} times the others' own time over "
                f"{n_steps} steps; look at its host, its GPU's clocks and its reads",
                file=sys.stderr,
                flush=True,
            )
        return found


class ForwardTimer:
    """Times the last forward pass of a step, without waiting for the device."""

    def __init__(self, device: torch.device) -> None:
        self.events = (
            tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))
            if device.type == "cuda"
            else None
        )
        self.started = self.ended = 0.0

    def start(self) -> None:
        """Note that a forward pass begins."""
        if self.events:
            self.events[0].record()
        else:
            self.started = time.perf_counter()

    def stop(self) -> None:
        """Note that it ended."""
        if self.events:
            self.events[1].record()
        else:
            self.ended = time.perf_counter()

    def ms(self) -> float:
        """Give its time; 0 where the device is not through with it."""
        if self.events is None:
            return (self.ended - self.started) * 1e3
        first, last = self.events
        return first.elapsed_time(last) if last.query() else 0.0
