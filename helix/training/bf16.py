"""DeepSpeed's optimizer for bf16 at stage 1: what lies between backward and forward, in few passes.

Gradients of bf16 weights are summed in flat fp32 buffers, one for each group of parameters. What
DeepSpeed 0.19.8 does there, parameter by parameter and with several waits for the device, is done
on the buffers, with one wait: for the norm, which decides whether the step is taken.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

CLIP_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_'s


def shorten_steps(optimizer: Any, allows: Callable[[float], bool] = math.isfinite) -> None:
    """Let a BF16_Optimizer use the functions below.

    Args:
        allows: Told the norm of the gradient, says whether the step is taken.
    """
    optimizer.update_hp_grads = partial(move_gradients, optimizer)
    optimizer.step = partial(take_step, optimizer, allows)
    optimizer.zero_grad = partial(drop_gradients, optimizer)


@torch.no_grad()
def move_gradients(optimizer: Any, **_: Any) -> None:
    """Add each bf16 gradient to its fp32 sum and drop it, after each backward.

    DeepSpeed's own method leaves .grad where it is, so that the first of n micro-batches counts n
    times, and makes an fp32 copy of every gradient on the way.
    """
    groups = zip(
        optimizer.bf16_groups,
        optimizer.fp32_groups_gradients,
        optimizer.fp32_groups_has_gradients,
        strict=True,
    )
    for parameters, sums, is_there in groups:
        for index, (parameter, total) in enumerate(zip(parameters, sums, strict=True)):
            if parameter.grad is not None:
                total.add_(parameter.grad.reshape(total.shape))
                parameter._hp_grad = total
                parameter.grad = None
                is_there[index] = True


@torch.no_grad()
def take_step(optimizer: Any, allows: Callable[[float], bool]) -> None:
    """Clip the sums, step on this rank's partition, and send the weights to all ranks.

    The sums are those over all ranks already. Where their norm is not allowed the weights stay.
    """
    sums = optimizer.fp32_groups_actual_gradients_flat  # without the padding of partitions
    norm = float(torch.stack([total.norm() for total in sums]).norm())
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
        optimizer.optimizer.step()
        optimizer._lazy_init_hp_params_optimizer_state()
        optimizer.update_lp_params()
    optimizer.clear_hp_grads()


def drop_gradients(optimizer: Any, set_to_none: bool = True) -> None:
    """Drop bf16 gradients; `take_step` left the sums at zero."""
    optimizer.clear_lp_grads(set_to_none=set_to_none)
