"""Sending gradients while the backward pass goes on: bf16 at stage 1 on several ranks.

The optimizer's groups are cut small (`reduce_bucket_size` of the ds_configs file), and one is
summed over the ranks as soon as its last gradient is there. All ranks send them in one order, from
the model's end to its beginning, whatever order their gradients come in.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch import distributed as dist

from helix.training import bf16

GROUP_SIZE = 50_000_000  # elements, where a file names no size: 200 MB are sent in under a ms


class Sending:
    """Sums a BF16_Optimizer's gradients over the ranks, group by group, from the backward pass.

    Attributes:
        n_early: Groups that the last step's backward pass sent; the others were sent at its end.
    """

    def __init__(self, optimizer: Any, parameters: Sequence[Tensor]) -> None:
        """Hook into the parameters.

        Args:
            parameters: All of the model's, in its order.
        """
        self.optimizer = optimizer
        self.order = last_first(optimizer.bf16_groups, parameters)
        self.missing: list[set[int]] = []
        self.works: list[dist.Work | None] = []
        self.is_last = False
        self.n_early = 0
        for group, members in enumerate(optimizer.bf16_groups):
            for index, parameter in enumerate(members):
                parameter.register_post_accumulate_grad_hook(partial(self._take, group, index))
        optimizer.get_grads_for_reduction = self.finish

    def begin(self, *, is_last: bool) -> None:
        """Expect a backward pass; after a step's last one groups are sent as they fill."""
        self.is_last = is_last
        self.missing = [set(range(len(group))) for group in self.optimizer.bf16_groups]

    def finish(self) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
        """Send what is left after a step's last backward pass, and await all; see bf16."""
        self.n_early = len(self.works)
        while len(self.works) < len(self.order):
            self._send_next()
        bf16.await_all(self.works)
        self.works = []
        return [], {}

    def _take(self, group: int, index: int, _: Tensor) -> None:
        if group in self.order[: len(self.works)]:
            raise RuntimeError(
                "a parameter was given a gradient twice in one backward pass, the second after the "
                'first was sent; say "overlap_comm": false in a file for training.deepspeed'
            )
        bf16.move_gradient(self.optimizer, group, index)
        self.missing[group].discard(index)
        while (
            self.is_last
            and len(self.works) < len(self.order)
            and not self.missing[self.order[len(self.works)]]
        ):
            self._send_next()

    def _send_next(self) -> None:
        self.works.append(bf16.send_group(self.optimizer, self.order[len(self.works)]))


def last_first(groups: Sequence[Sequence[Tensor]], parameters: Sequence[Tensor]) -> list[int]:
    """Order groups as a backward pass fills them: by their first parameter, from the last on."""
    numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
    firsts = [min(numbers[id(parameter)] for parameter in group) for group in groups]
    return sorted(range(len(groups)), key=lambda group: -firsts[group])
