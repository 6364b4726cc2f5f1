"""The veto: a step is asked for with the gradient's norm known and no weight changed yet.

DeepSpeed 0.19.8 drops a step by itself where the norm is not finite: gradients go, while weights,
moments and AdamW's count stay to the bit. A norm that is refused is told to it as one that is not.
The methods that are stood in for are private names of the deepspeed that is pinned.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from helix.training.bf16 import norm_over_ranks, shorten_steps

Accept = Callable[[float], bool]  # the norm of the gradient over all ranks, before clipping


def accept_finite(norm: float) -> bool:
    """Take every step whose gradient is finite."""
    return math.isfinite(norm)


class Veto:
    """Asks `accept` in the middle of an optimizer's step.

    Attributes:
        accept: Set before each step. All ranks are asked together.
        norm: What it was asked about last; not a number before the first time.
        sums_ranks: Whether the gradients of ranks are summed; DeepSpeed averages them.
    """

    def __init__(self, optimizer: Any, *, stage: int) -> None:
        self.accept: Accept = accept_finite
        self.norm = math.nan
        self.optimizer = optimizer
        self.stage = stage
        self.sums_ranks = hasattr(optimizer, "update_hp_grads")
        if self.sums_ranks:
            shorten_steps(optimizer, self.allows)
        elif stage == 3:
            self.norms_of_groups = optimizer._get_norm_groups
            optimizer._get_norm_groups = self._judge_groups
        elif stage:
            self.norm_of_all = optimizer.scaled_global_norm
            optimizer.scaled_global_norm = self._judge_all
            self.finds_overflow = optimizer.has_overflow
            optimizer.has_overflow = self._finds_overflow

    def allows(self, norm: float) -> bool:
        """Ask, and remember the norm."""
        self.norm = norm
        is_accepted = self.accept(norm)
        return is_accepted and math.isfinite(norm)

    def forget_dropped(self) -> None:
        """Empty the sums of gradients that DeepSpeed keeps where the optimizer is on the host."""
        if self.stage in (1, 2) and getattr(self.optimizer, "cpu_offload", False):
            for group in self.optimizer.averaged_gradients:
                self.optimizer.averaged_gradients[group] = None
                self.optimizer.all_grad_tensors[group] = None

    def _judge_all(self) -> Tensor:  # stages 1 and 2 in fp32, or with the optimizer on the host
        own = self._flat_gradients()
        norm = torch.tensor(norm_over_ranks(own)) if own else self.norm_of_all()
        return norm if self.allows(float(norm)) else torch.full_like(norm, math.inf)

    def _finds_overflow(self, partition_gradients: bool = True) -> bool:
        # The norm tells as much of flat gradients, in one pass instead of several a parameter.
        return not self._flat_gradients() and self.finds_overflow(partition_gradients)

    def _flat_gradients(self) -> list[Tensor]:
        """Give this rank's gradients in one tensor a group, where DeepSpeed sums them so."""
        groups = self.optimizer.averaged_gradients.values()
        flat = [getattr(group, "flat_partition", None) for group in groups]
        found = [partition for partition in flat if partition is not None]
        is_whole = len(found) == len(self.optimizer.bit16_groups)
        return found if is_whole and not self.optimizer.cpu_offload else []

    def _judge_groups(self) -> list[Tensor]:  # stage 3 combines them itself
        if not self.optimizer.offload_optimizer:  # all gradients of this rank lie in one buffer
            norm = norm_over_ranks([self.optimizer.grad_partitions_flat_buffer])
            return [torch.tensor(norm if self.allows(norm) else math.inf)]
        norms = [torch.as_tensor(norm) for norm in self.norms_of_groups()]
        whole = torch.stack([norm.float() for norm in norms])
        is_finite = bool((torch.isfinite(whole) & (whole >= 0)).all())  # -1 stands for not finite
        norm = float(whole.norm()) if is_finite else math.inf
        return norms if self.allows(norm) else [torch.full_like(norms[0], math.inf)]


def drop_plain_step(engine: Any) -> None:
    """Let a DeepSpeed engine of stage 0 end a step without taking it."""
    optimizer = engine.optimizer
    optimizer.step, optimizer.overflow = lambda: None, True
    try:
        engine.step()
    finally:
        del optimizer.step, optimizer.overflow
