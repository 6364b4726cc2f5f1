"""Sending gradients while the backward pass goes on: bf16 at stages 1 and 2 on several ranks.

The optimizer's groups are cut small (`reduce_bucket_size` of the ds_configs file), and one is
summed over the ranks as soon as its last gradient is there. All ranks send them in one order, from
the model's end to its beginning, whatever order their gradients come in.

Stage 2 is DeepSpeed's optimizer of stage 1 with sums of a rank's own partitions alone: a group's
gradients are put together for as long as they are sent, after each micro-batch.
"""

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from helix.training import bf16
from helix.training.ds_settings import is_flat

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
        self.n_sent = 0
        self.sends = False
        self.n_early = 0
        self.works: list[dist.Work | None] = []
        for group, members in enumerate(optimizer.bf16_groups):
            for index, parameter in enumerate(members):
                parameter.register_post_accumulate_grad_hook(partial(self._take, group, index))
        optimizer.get_grads_for_reduction = lambda: ([], {})  # none is left for DeepSpeed

    def begin(self, *, is_last: bool) -> None:
        """Expect a backward pass: a step's last, or another one before it."""
        self.sends = is_last
        self.n_sent = 0
        self.missing = [set(range(len(group))) for group in self.optimizer.bf16_groups]

    def end(self) -> None:
        """Send what the backward pass has left to send, and await all."""
        if self.sends:
            self.n_early = self.n_sent
            while self.n_sent < len(self.order):
                self._send_next()
            self.collect()

    def move(self, group: int, index: int) -> None:
        """Put one parameter's gradient to what is sent of its group."""
        bf16.move_gradient(self.optimizer, group, index)

    def send(self, group: int) -> None:
        """Begin to send a group, of which all gradients are there that will be."""
        self.works.append(bf16.send_group(self.optimizer, group))

    def collect(self) -> None:
        """Await all that was sent."""
        bf16.await_all(self.works)
        self.works = []

    def _take(self, group: int, index: int, _: Tensor) -> None:
        if group in self.order[: self.n_sent]:
            raise RuntimeError(
                "a parameter was given a gradient twice in one backward pass, the second after the "
                'first was sent; take stage 1 with "overlap_comm": false for training.deepspeed'
            )
        self.move(group, index)
        self.missing[group].discard(index)
        while (
            self.sends
            and self.n_sent < len(self.order)
            and not self.missing[self.order[self.n_sent]]
        ):
            self._send_next()

    def _send_next(self) -> None:
        self.send(self.order[self.n_sent])
        self.n_sent += 1


@dataclass(frozen=True)
class Sent:
    """A group that is on its way: all of its gradients, and what this rank will have of them."""

    work: Any  # torch's own types know several
    group: int
    whole: Tensor
    own: Tensor


class Partitioning(Sending):
    """Keeps of the sums this rank's partitions alone, as stage 2 does.

    Attributes:
        is_half: Whether bf16 gradients are sent as they are, not in fp32.
    """

    def __init__(
        self, optimizer: Any, parameters: Sequence[Tensor], *, is_half: bool = False
    ) -> None:
        """Hook into the parameters, and take the place of the optimizer's own sums."""
        super().__init__(optimizer, parameters)
        self.is_half = is_half
        self.holds_sum = [False] * len(self.order)
        # Of each parameter in its group, of what fills the group up, and where that ends.
        self.starts = [
            [0, *itertools.accumulate(parameter.numel() for parameter in members), flat.numel()]
            for members, flat in zip(optimizer.bf16_groups, optimizer.bf16_groups_flat, strict=True)
        ]
        self.gathered: dict[int, Tensor] = {}
        self.under_way: deque[Sent] = deque()
        optimizer.update_hp_grads = lambda **_: None
        optimizer.clear_hp_grads = self.forget
        optimizer.fp32_groups_gradient_flat_partition = [
            torch.empty_like(weights) for weights in optimizer.fp32_groups_flat_partition
        ]
        for whole_sums in (
            optimizer.fp32_groups_gradients_flat,
            optimizer.fp32_groups_actual_gradients_flat,
            optimizer.fp32_groups_gradients,
            optimizer.fp32_groups_gradient_dict,
            optimizer.non_expert_gradients,
        ):
            whole_sums.clear()

    def begin(self, *, is_last: bool) -> None:
        """Expect a backward pass, after each of which the sums are sent."""
        super().begin(is_last=True)

    def move(self, group: int, index: int) -> None:
        """Put a gradient to its place among those of its group."""
        parameter = self.optimizer.bf16_groups[group][index]
        self._place(group, index).copy_(parameter.grad.reshape(-1))
        parameter.grad = None

    @torch.no_grad()
    def send(self, group: int) -> None:
        """Begin to send a group; await the one before, so that two are held at a time."""
        for index in (*self.missing[group], len(self.starts[group]) - 2):  # and what fills it up
            self._place(group, index).zero_()
        whole = self.gathered.pop(group)
        total = self.optimizer.fp32_groups_gradient_flat_partition[group]
        is_first = not self.holds_sum[group] and whole.dtype == total.dtype
        own = total if is_first else torch.empty_like(total, dtype=whole.dtype)
        work = dist.reduce_scatter_tensor(
            own, whole, group=self.optimizer.real_dp_process_group[group], async_op=True
        )
        self.under_way.append(Sent(work, group, whole, own))
        while len(self.under_way) > 2:
            self._add(self.under_way.popleft())

    def collect(self) -> None:
        """Await all that was sent."""
        while self.under_way:
            self._add(self.under_way.popleft())

    def forget(self) -> None:
        """Let the next gradients take the place of the sums."""
        self.holds_sum = [False] * len(self.order)

    @torch.no_grad()
    def _add(self, sent: Sent) -> None:
        sent.work.wait()
        total = self.optimizer.fp32_groups_gradient_flat_partition[sent.group]
        if sent.own is not total:
            (total.add_ if self.holds_sum[sent.group] else total.copy_)(sent.own)
        self.holds_sum[sent.group] = True

    def _place(self, group: int, index: int) -> Tensor:
        if group not in self.gathered:
            flat = self.optimizer.bf16_groups_flat[group]
            dtype = flat.dtype if self.is_half else torch.float32
            self.gathered[group] = torch.empty_like(flat, dtype=dtype, requires_grad=False)
        start, end = self.starts[group][index : index + 2]
        return self.gathered[group][start:end]


def sums_of(settings: Mapping[str, Any]) -> Callable[[Any, Sequence[Tensor]], Sending] | None:
    """Choose how a run on several ranks sends gradients early; None where it does not."""
    zero = settings.get("zero_optimization", {})
    if is_flat(settings) and zero["stage"] == 2:
        return partial(Partitioning, is_half=settings["communication_data_type"] == "bf16")
    return Sending if is_flat(settings) and zero.get("overlap_comm", False) else None


def last_first(groups: Sequence[Sequence[Tensor]], parameters: Sequence[Tensor]) -> list[int]:
    """Order groups as a backward pass fills them: by their first parameter, from the last on."""
    numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
    firsts = [min(numbers[id(parameter)] for parameter in group) for group in groups]
    return sorted(range(len(groups)), key=lambda group: -firsts[group])
