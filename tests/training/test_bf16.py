"""Flat sums of gradients: what an earlier step left must never be added to."""

import math
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helix.training import bf16
from helix.training.engine import join_ranks
from helix.training.optimizer import cut


class Flat(SimpleNamespace):
    """What bf16 asks of DeepSpeed's optimizer on one rank; each group has an element of padding.

    Args:
        sizes: Elements of each parameter.
        n_elements: A group ends where it has so many.
    """

    def __init__(self, sizes: Sequence[int] = (3, 2), n_elements: float = math.inf) -> None:
        parameters = [nn.Parameter(torch.ones(n, dtype=torch.bfloat16)) for n in sizes]
        groups = list(cut(parameters, n_elements))
        lengths = [[p.numel() for p in group] for group in groups]
        flat = [torch.zeros(sum(of_group) + 1) for of_group in lengths]
        weights = [torch.ones_like(sums) for sums in flat]
        super().__init__(
            bf16_groups=groups,
            bf16_groups_flat=[whole.bfloat16() for whole in weights],
            bf16_partitioned_groups=[[whole.bfloat16()] for whole in weights],
            fp32_groups_gradients=[
                list(sums[:-1].split(n)) for sums, n in zip(flat, lengths, strict=True)
            ],
            fp32_groups_gradients_flat=list(flat),
            fp32_groups_actual_gradients_flat=[sums[:-1] for sums in flat],
            fp32_groups_gradient_dict={},
            non_expert_gradients=list(flat),
            fp32_groups_gradient_flat_partition=flat,
            fp32_groups_flat_partition=weights,
            fp32_groups_has_gradients=[[False] * len(group) for group in groups],
            real_dp_process_group=[None] * len(groups),
            clip_grad=0.0,
            optimizer=torch.optim.SGD([{"params": [whole]} for whole in weights], lr=1.0),
            _lazy_init_hp_params_optimizer_state=lambda: None,
            clear_lp_grads=lambda set_to_none: None,
        )
        self.sums, self.weights = flat[0], weights[0]
        bf16.shorten_steps(self)

    def give(self, *gradients: float | None) -> None:
        """Set the gradient of each parameter to a number, and end a backward pass."""
        for parameter, number in zip(self.bf16_groups[0], gradients, strict=True):
            parameter.grad = None if number is None else torch.full_like(parameter, number)
        self.update_hp_grads()


@pytest.fixture
def flat():
    join_ranks()
    return Flat()


def test_micro_batches_add_up_and_the_next_step_begins_anew(flat):
    flat.give(1.0, 2.0)
    flat.give(10.0, 20.0)
    assert flat.get_grads_for_reduction() == ([], {})
    assert flat.sums.tolist() == [11, 11, 11, 22, 22, 0]
    assert all(parameter.grad is None for parameter in flat.bf16_groups[0])
    flat.step()
    assert flat.weights.tolist() == [-10, -10, -10, -21, -21, 1]
    flat.give(0.5, 0.25)
    flat.get_grads_for_reduction()
    assert flat.sums.tolist() == [0.5, 0.5, 0.5, 0.25, 0.25, 0]


def test_parameter_without_a_gradient_has_none_of_the_step_before(flat):
    flat.give(1.0, 2.0)
    flat.get_grads_for_reduction()
    flat.step()
    flat.give(None, 4.0)
    flat.get_grads_for_reduction()
    assert flat.sums.tolist() == [0, 0, 0, 4, 4, 0]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_gradient_that_is_not_finite_leaves_nothing_behind(flat, number):
    flat.give(number, 1.0)
    flat.get_grads_for_reduction()
    flat.step()
    assert flat.overflow
    assert flat.weights.tolist() == [1] * 6
    flat.give(1.0, 1.0)
    flat.get_grads_for_reduction()
    flat.step()
    assert not flat.overflow
    assert flat.weights.tolist() == [0, 0, 0, 0, 0, 1]


def test_step_is_clipped_to_the_norm_of_all(flat):
    flat.clip_grad = 1.0
    flat.give(4.0, 0.0)
    flat.get_grads_for_reduction()
    flat.step()
    assert flat._global_grad_norm == pytest.approx(math.sqrt(48))
    assert (1 - flat.weights).norm().item() == pytest.approx(1, abs=1e-5)
