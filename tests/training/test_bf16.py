"""Flat sums of gradients: what an earlier step left must never be added to."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helix.training import bf16
from helix.training.engine import join_ranks


class Flat(SimpleNamespace):
    """What bf16 asks of DeepSpeed's optimizer, for one group of two parameters on one rank."""

    def __init__(self) -> None:
        parameters = [nn.Parameter(torch.ones(n, dtype=torch.bfloat16)) for n in (3, 2)]
        sums, weights = torch.zeros(6), torch.ones(6)  # one of padding
        super().__init__(
            bf16_groups=[parameters],
            fp32_groups_gradients=[[sums[:3], sums[3:5]]],
            fp32_groups_gradients_flat=[sums],
            fp32_groups_gradient_flat_partition=[sums],
            fp32_groups_flat_partition=[weights],
            fp32_groups_has_gradients=[[False, False]],
            real_dp_process_group=[None],
            clip_grad=0.0,
            optimizer=torch.optim.SGD([weights], lr=1.0),
            _lazy_init_hp_params_optimizer_state=lambda: None,
            update_lp_params=lambda: None,
            clear_lp_grads=lambda set_to_none: None,
        )
        self.sums, self.weights = sums, weights

    def give(self, *gradients: float | None) -> None:
        """Set the gradient of each parameter to a number, and end a backward pass."""
        for parameter, number in zip(self.bf16_groups[0], gradients, strict=True):
            parameter.grad = None if number is None else torch.full_like(parameter, number)
        self.update_hp_grads()


@pytest.fixture
def flat():
    join_ranks()
    optimizer = Flat()
    bf16.shorten_steps(optimizer)
    return optimizer


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
