"""DeepSpeed's optimizer for bf16 at stage 1: what lies between backward and forward, in few passes.

Gradients of bf16 weights are summed in flat fp32 buffers, one for each group of parameters. What
DeepSpeed 0.19.8 does there, parameter by parameter, through copies and with several waits for the
device, is done on the buffers, with one wait: for the norm, which decides whether the step is
taken. Ranks sum each other's gradients of their own partition alone, half of what an all-reduce
sends; they are not averaged.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import distributed as dist

from helix import distributed

CLIP_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_'s


def shorten_steps(optimizer: Any, allows: Callable[[float], bool] = math.isfinite) -> None:
    """Let a BF16_Optimizer use the functions below.

    Args:
        allows: Told the norm of the gradient, says whether the step is taken.
    """
    optimizer.update_hp_grads = partial(move_gradients, optimizer)
    optimizer.get_grads_for_reduction = partial(reduce_gradients, optimizer)
    optimizer.clear_hp_grads = partial(forget_gradients, optimizer)
    optimizer.step = partial(take_step, optimizer, allows)
    optimizer.zero_grad = partial(drop_gradients, optimizer)


@torch.no_grad()
def move_gradients(optimizer: Any, **_: Any) -> None:
    """Add each bf16 gradient to its fp32 sum and drop it, after each backward.

    DeepSpeed's own method leaves .grad where it is, so that the first of n micro-batches counts n
    times, and makes an fp32 copy of every gradient on the way.
    """
    for group, parameters in enumerate(optimizer.bf16_groups):
        for index in range(len(parameters)):
            move_gradient(optimizer, group, index)


def move_gradient(optimizer: Any, group: int, index: int) -> None:
    """Add one parameter's gradient, if it has one, to its sum.

    The first of a step is the sum: nothing needs to be set to zero between steps.
    """
    parameter = optimizer.bf16_groups[group][index]
    if parameter.grad is None:
        return
    total = optimizer.fp32_groups_gradients[group][index]
    is_there = optimizer.fp32_groups_has_gradients[group]
    add = total.add_ if is_there[index] else total.copy_
    add(parameter.grad.reshape(total.shape))
    parameter._hp_grad = total
    parameter.grad = None
    is_there[index] = True


def reduce_gradients(optimizer: Any) -> tuple[list[torch.Tensor], dict[str, list[torch.Tensor]]]:
    """Sum each rank's partitions over all ranks, after a step's last backward.

    Returns:
        The gradients that are left for DeepSpeed to reduce: none.
    """
    await_all([send_group(optimizer, group) for group in range(len(optimizer.bf16_groups))])
    return [], {}


@torch.no_grad()
def send_group(optimizer: Any, group: int) -> dist.Work | None:
    """Begin to sum this rank's partition of a group over all ranks; a collective call."""
    sums = optimizer.fp32_groups_gradients[group]
    is_there = optimizer.fp32_groups_has_gradients[group]
    for total, has_gradient in zip(sums, is_there, strict=True):
        if not has_gradient:
            total.zero_()  # what an earlier step left
    own = optimizer.fp32_groups_gradient_flat_partition[group]
    whole = optimizer.fp32_groups_gradients_flat[group]
    ranks = optimizer.real_dp_process_group[group]
    if dist.get_world_size(ranks) == 1:
        return None
    return dist.reduce_scatter_tensor(own, whole, group=ranks, async_op=True)


def await_all(works: Iterable[dist.Work | None]) -> None:
    """Let what follows, here and on the device, come after what was begun."""
    for work in works:
        if work is not None:
            work.wait()


def forget_gradients(optimizer: Any) -> None:
    """Let the next gradients take the place of the sums."""
    optimizer.fp32_groups_has_gradients = [
        [False] * len(group) for group in optimizer.fp32_groups_gradients
    ]


def norm_over_ranks(partitions: list[torch.Tensor]) -> float:
    """Give the norm of all ranks' partitions; every rank gets the same."""
    square = torch.stack([part.norm() for part in partitions]).square().sum()
    return float(distributed.sum_over_ranks(square).sqrt())


@torch.no_grad()
def take_step(optimizer: Any, allows: Callable[[float], bool]) -> None:
    """Clip the sums, step on this rank's partition, and send the weights to all ranks.

    Where the norm of the gradient is not allowed the weights stay.
    """
    norm = norm_over_ranks(optimizer.fp32_groups_gradient_flat_partition)
    optimizer.overflow = not allows(norm)
    optimizer._global_grad_norm = math.inf if optimizer.overflow else norm
    if not optimizer.overflow:
        ratio = optimizer.clip_grad / (norm + CLIP_EPS)
        partitions = zip(
            optimizer.fp32_groups_flat_partition,
            optimizer.fp32_groups_gradient_flat_partition,
            strict=True,
        )
        for weights, gradient in partitions:
            if 0 < ratio < 1:
                gradient.mul_(ratio)
            weights.grad = gradient
        # A group is on its way to all ranks while the next one is stepped on.
        await_all([share_group(optimizer, group) for group in step_by_group(optimizer.optimizer)])
        optimizer._lazy_init_hp_params_optimizer_state()
    optimizer.clear_hp_grads()


def step_by_group(adamw: torch.optim.Optimizer) -> Iterator[int]:
    """Step on one group of parameters after the other; give the number of each that is done."""
    groups = adamw.param_groups
    try:
        for number, group in enumerate(groups):
            adamw.param_groups = [group]
            adamw.step()
            yield number
    finally:
        adamw.param_groups = groups


def share_group(optimizer: Any, group: int) -> dist.Work | None:
    """Cast this rank's partition of a group and begin to send it to all ranks; a collective."""
    ranks = optimizer.real_dp_process_group[group]
    own = optimizer.bf16_partitioned_groups[group][dist.get_rank(ranks)]
    own.data.copy_(optimizer.fp32_groups_flat_partition[group].data)
    if dist.get_world_size(ranks) == 1:
        return None
    whole = optimizer.bf16_groups_flat[group]
    return dist.all_gather_into_tensor(whole.data, own.data, group=ranks, async_op=True)


def drop_gradients(optimizer: Any, set_to_none: bool = True) -> None:
    """Drop bf16 gradients; `take_step` has forgotten the sums."""
    optimizer.clear_lp_grads(set_to_none=set_to_none)
