"""The learning rate as a pure function of the step."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Shape = Literal["cosine", "warmup_stable_decay", "constant"]


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate moves from zero to its peak and down again.

    Attributes:
        shape: cosine falls from the end of the warm-up to the last step; warmup_stable_decay
            holds and falls along a line over the last n_decay_steps; constant holds.
        n_warmup_steps: Steps of a straight rise to the peak.
        n_decay_steps: Length of the fall of warmup_stable_decay.
        final_ratio: Learning rate after the last step, as a share of the peak.
    """

    shape: Shape = "cosine"
    n_warmup_steps: int = 0
    n_decay_steps: int = 0
    final_ratio: float = 0.1

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(
                f"schedule.shape={self.shape!r}: give one of {', '.join(get_args(Shape))}"
            )
        for name in ("n_warmup_steps", "n_decay_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"schedule.{name}={getattr(self, name)}: give 0 or more")
        if not 0 <= self.final_ratio <= 1:
            raise ValueError(f"schedule.final_ratio={self.final_ratio}: give a value in [0, 1]")
        if self.n_decay_steps and self.shape != "warmup_stable_decay":
            raise ValueError(
                f"schedule.n_decay_steps={self.n_decay_steps}: has no effect with "
                f"schedule.shape={self.shape}; drop it or take warmup_stable_decay"
            )

    def check(self, n_steps: int) -> None:
        """Refuse a schedule that is longer than the run."""
        needed = self.n_warmup_steps + self.n_decay_steps
        if needed > n_steps:
            raise ValueError(
                f"schedule.n_warmup_steps + n_decay_steps={needed}: more than "
                f"training.n_steps={n_steps}; shorten the schedule or lengthen the run"
            )
        if self.shape == "warmup_stable_decay" and not self.n_decay_steps:
            raise ValueError("schedule.n_decay_steps=0: warmup_stable_decay needs at least 1")


def rate_ratio(config: ScheduleConfig, step: int, n_steps: int) -> float:
    """Give the learning rate of a step as a share of the peak, in [0, 1].

    Args:
        step: The step about to be taken, from 0.
        n_steps: Length of the whole run.
    """
    if step < config.n_warmup_steps:
        return (step + 1) / (config.n_warmup_steps + 1)
    if config.shape == "constant":
        return 1.0
    n_fall = config.n_decay_steps
    if config.shape == "cosine":
        n_fall = n_steps - config.n_warmup_steps
    progress = min(1.0, max(0.0, (step - (n_steps - n_fall)) / max(1, n_fall)))
    fallen = progress if config.shape != "cosine" else (1 - math.cos(math.pi * progress)) / 2
    return 1.0 - (1.0 - config.final_ratio) * fallen
