"""Gradients sent from the backward pass are those that would be sent after it."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helix.models import build_model, build_on_meta
from helix.presets import PRESETS
from helix.training.engine import Engine, join_ranks
from helix.training.optimizer import build_optimizer, cut
from helix.training.sending import Sending, last_first
from tests.training.runs import with_words
from tests.training.test_bf16 import Flat
from tests.training.test_engine import take_steps


@pytest.mark.ranks
@pytest.mark.parametrize("micro_batch_rows", [1, 2])
def test_two_ranks_send_early_what_they_would_send_late(
    tiny_run, two_ranks, tmp_path, micro_batch_rows
):
    early, late = (
        two_ranks.run(
            weights_and_sent,
            with_words(
                tiny_run(
                    "training.precision=bf16",
                    "training.clip_norm=0",  # or the order in which the norm is summed would show
                    f"training.deepspeed={stage_1(tmp_path, overlap_comm=overlaps)}",
                ),
                micro_batch_rows=micro_batch_rows,
            ),
        )
        for overlaps in (True, False)
    )
    for (n_early, n_groups, weights), (_, n_together, expected) in zip(early, late, strict=True):
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in weights)
        assert n_groups > 4 > 3 == n_together
        assert n_early >= n_groups - 3  # norms, time scales and the embedding fill at the end


def stage_1(folder, *, overlap_comm: bool) -> str:
    file = folder / f"{overlap_comm}.json"
    zero = {"stage": 1, "overlap_comm": overlap_comm, "reduce_bucket_size": 10_000}
    file.write_text(json.dumps({"zero_optimization": zero}))
    return str(file)


def weights_and_sent(config):
    """Give the weights after three steps, and of how many groups how many were sent early."""
    join_ranks()
    engine = Engine(build_model(config.model, seed=0, device="cpu"), config)
    take_steps(engine, config, n_steps=3)
    weights = {name: p.detach().clone() for name, p in engine.parameters.items()}
    n_early = engine.sending.n_early if engine.sending else 0
    n_groups = len(engine.engine.optimizer.param_groups)
    engine.release()
    return n_early, n_groups, weights


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=7),
    st.integers(1, 9),
    st.data(),
)
def test_sums_are_right_whatever_comes_in_whatever_order(sizes, n_elements, data):
    """Of each micro-batch some parameters have a gradient, in an order of their own."""
    join_ranks()
    flat = Flat(sizes, n_elements)
    parameters = [parameter for group in flat.bf16_groups for parameter in group]
    sending = Sending(flat, parameters)
    for _ in range(2):
        expected = torch.zeros(len(sizes))
        n_micro_batches = data.draw(st.integers(1, 3))
        for number in range(n_micro_batches):
            sending.begin(is_last=number == n_micro_batches - 1)
            drawn = data.draw(st.permutations(range(len(sizes))))
            for index in drawn[: data.draw(st.integers(0, len(sizes)))]:
                (parameters[index].sum() * (index + 1)).backward()
                expected[index] += index + 1
        assert flat.get_grads_for_reduction() == ([], {})
        sums = [total for group in flat.fp32_groups_gradients for total in group]
        assert [total.unique().tolist() for total in sums] == [[n] for n in expected.tolist()]
        flat.clear_hp_grads()


def test_a_gradient_that_comes_after_it_was_sent_is_an_error_not_a_loss():
    join_ranks()
    flat = Flat([3, 2], 1)
    parameters = [group[0] for group in flat.bf16_groups]
    sending = Sending(flat, parameters)
    sending.begin(is_last=True)
    parameters[1].sum().backward()
    with pytest.raises(RuntimeError, match=r'twice.*"overlap_comm": false'):
        parameters[1].sum().backward()


@pytest.mark.parametrize("name", ["hybrid_0_9b", "hybrid_3b"])
def test_all_but_the_embedding_can_be_sent_before_the_backward_pass_ends(name):
    model, config = build_on_meta(PRESETS[name]().model), PRESETS[name]().optimizer
    groups = build_optimizer(model, config, is_fused=False, n_elements_per_group=5e7).param_groups
    held = [group["params"] for group in groups]
    order = last_first(held, list(model.parameters()))
    embedding = [p for n, p in model.named_parameters() if n == "embedding.weight"]
    assert held[order[-1]] == embedding
    sizes = [sum(p.numel() for p in group) for group in held]
    assert sum(size >= 5e7 for size in sizes) >= len(sizes) - 3


def test_groups_are_cut_in_order_and_none_is_empty():
    parameters = [nn.Parameter(torch.empty(n)) for n in (3, 3, 1, 9, 2)]
    assert [[p.numel() for p in group] for group in cut(parameters, 6)] == [[3, 3], [1, 9], [2]]
    assert list(cut([], 6)) == []
