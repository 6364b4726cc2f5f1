"""The guard: judges each step before its weights change, and says when to go back.

A step whose loss or gradient is not finite, or stands far above those of the recent good steps, is
an incident: it is skipped on all ranks alike. Several incidents in a short while lead back to the
last good checkpoint. All it decides by is the same on every rank and part of the checkpoint.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from helix.config import GuardConfig
from helix.distributed import greatest_over_ranks
from helix.training.incidents import Rollback
from helix.training.spikes import Window

Kind = Literal["loss_not_finite", "gradient_not_finite", "loss_spike", "gradient_spike"]

# The least spread that is believed, as a part of the median: healthy losses of small batches
# scatter by some percent of it, gradient norms by some ten. Measured over four runs of the demo,
# 600 steps each: the highest scores of good steps are 3.7 and 13.2.
LOSS_FLOOR = 0.02
GRADIENT_FLOOR = 0.5


@dataclass(frozen=True, kw_only=True)
class Incident:
    """Why a step was skipped.

    Attributes:
        step: As metrics.jsonl counts them: the first is 1.
        value: The loss in nats per token, or the norm of the gradient.
        score: Its robust z-score; infinite where the value is not finite.
    """

    step: int
    kind: Kind
    value: float
    score: float


class Guard:
    """Judges steps. For each: `begin` with the loss, `accepts` with the norm, then `end`.

    Attributes:
        incidents: Steps that were skipped, of the last `guard.within_steps`.
        n_rollbacks: Times that the run went back, in all.
        n_in_a_row: Times that it went back and did not get past `furthest_step` and well on.
        jumps: Pairs of a step and the rows of data that were passed over right after it.
    """

    def __init__(self, config: GuardConfig, state: dict[str, Any] | None = None) -> None:
        self.config = config
        self.norm = 0.0
        self.incident: Incident | None = None
        self.load_state_dict(state or {})

    def begin(self, step: int, loss: float) -> None:
        """Judge the loss of a step, which is the same on every rank already."""
        self.step, self.loss, self.norm = step, loss, math.nan
        self.incident = self._judge("loss", loss, self.losses, self.config.loss_score)

    def accepts(self, norm: float) -> bool:
        """Judge the gradient; tell whether the step may be taken. All ranks call it together."""
        self.norm = greatest_over_ranks(norm)
        if self.incident is None:
            score = self.config.gradient_score
            self.incident = self._judge("gradient", self.norm, self.norms, score)
        return self.incident is None

    def end(self, *, is_applied: bool) -> Incident | None:
        """Note how a step went; give the incident if it was skipped."""
        if not is_applied and self.incident is None:  # DeepSpeed saw it before it asked
            self.incident = Incident(
                step=self.step, kind="gradient_not_finite", value=math.inf, score=math.inf
            )
        horizon = self.step - self.config.within_steps
        self.incidents = [step for step in self.incidents if step > horizon]
        if self.incident is not None:
            self.incidents.append(self.step)
        else:
            self.losses.add(self.loss)
            self.norms.add(self.norm)
            if self.step > self.furthest_step + self.config.within_steps:
                self.n_in_a_row = 0
        return self.incident

    @property
    def is_rollback_due(self) -> bool:
        """Tell whether there were too many incidents in the last steps."""
        return len(self.incidents) >= self.config.rollback_incidents

    def state_dict(self) -> dict[str, Any]:
        """Give all that decisions depend on, fit for JSON."""
        return {
            "losses": list(self.losses.figures),
            "norms": list(self.norms.figures),
            "incidents": self.incidents,
            "n_rollbacks": self.n_rollbacks,
            "n_in_a_row": self.n_in_a_row,
            "furthest_step": self.furthest_step,
            "jumps": self.jumps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; an empty one is that of a run that begins."""
        sizes = {"n_steps": self.config.window_steps, "n_least": self.config.least_steps}
        self.losses = Window(state.get("losses", ()), floor=LOSS_FLOOR, **sizes)
        self.norms = Window(state.get("norms", ()), floor=GRADIENT_FLOOR, **sizes)
        self.incidents = list(state.get("incidents", ()))
        self.n_rollbacks = int(state.get("n_rollbacks", 0))
        self.n_in_a_row = int(state.get("n_in_a_row", 0))
        self.furthest_step = int(state.get("furthest_step", 0))
        self.jumps = [list(jump) for jump in state.get("jumps", ())]

    def _judge(
        self, figure: Literal["loss", "gradient"], value: float, window: Window, bound: float
    ) -> Incident | None:
        score = window.score(value)
        if math.isfinite(value) and not (bound and score > bound):
            return None
        kind: Kind = "loss_spike" if figure == "loss" else "gradient_spike"
        if not math.isfinite(value):
            kind = "loss_not_finite" if figure == "loss" else "gradient_not_finite"
        return Incident(step=self.step, kind=kind, value=value, score=score)


def state_after_rollback(
    state: dict[str, Any], rollback: Rollback, *, step: int, n_rows: int
) -> dict[str, Any]:
    """Give a checkpoint's state as it is after going back to it.

    Args:
        state: The checkpoint's.
        step: The checkpoint's.
        n_rows: Rows of data between the checkpoint's position and where the run goes on.
    """
    return {
        **state,
        "n_rollbacks": rollback.number,
        "n_in_a_row": rollback.n_in_a_row,
        "furthest_step": max(rollback.step, int(state.get("furthest_step", 0))),
        "jumps": [*state.get("jumps", []), [step, n_rows]],
    }
