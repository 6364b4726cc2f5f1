"""Gradients sent from the backward pass are those that would be sent after it."""

import gc
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
from helix.training.sending import Partitioning, Sending, last_first
from tests.training.runs import with_words
from tests.training.test_bf16 import Flat
from tests.training.test_engine import norms_of, take_steps


@pytest.mark.ranks
@pytest.mark.parametrize(("stage", "micro_batch_rows"), [(1, 1), (1, 2), (2, 2)])
def test_two_ranks_send_early_what_they_would_send_late(
    tiny_run, two_ranks, tmp_path, stage, micro_batch_rows
):
    def run(stage, *, overlap_comm):
        words = (
            "training.precision=bf16",
            "training.clip_norm=0",  # or the order in which the norm is summed would show
            f"training.deepspeed={file_of(tmp_path, stage=stage, overlap_comm=overlap_comm)}",
        )
        config = with_words(tiny_run(*words), micro_batch_rows=micro_batch_rows)
        return two_ranks.run(weights_and_sent, config)

    early, late = run(stage, overlap_comm=True), run(1, overlap_comm=False)
    for (n_early, n_groups, weights), (_, n_together, expected) in zip(early, late, strict=True):
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in weights)
        assert n_groups > 4 > 3 == n_together
        assert n_early >= n_groups - 3  # norms, time scales and the embedding fill at the end


@pytest.mark.ranks
@pytest.mark.parametrize("sent_as", ["fp32", "bf16"])
def test_sums_of_a_ranks_own_partitions_over_micro_batches_are_those_of_all(
    tiny_run, two_ranks, tmp_path, sent_as
):
    def norms(stage, sent_as):
        file = file_of(tmp_path, stage=stage, communication_data_type=sent_as)
        config = tiny_run("training.precision=bf16", f"training.deepspeed={file}")
        ours, theirs = two_ranks.run(norms_of, with_words(config, micro_batch_rows=1))
        assert ours == theirs
        return ours

    bound = {"fp32": 1e-4, "bf16": 1e-2}[sent_as]  # AdamW magnifies what is rounded otherwise
    assert norms(2, sent_as) == pytest.approx(norms(1, "fp32"), rel=bound)


@pytest.mark.ranks
@pytest.mark.parametrize(("stage", "n_bytes"), [(1, 2 + 4 + 4 / 2), (2, 2 + 4 / 2 + 4 / 2)])
def test_a_rank_holds_weights_sums_and_masters_and_no_more(
    tiny_run, two_ranks, tmp_path, stage, n_bytes
):
    file = file_of(tmp_path, stage=stage)
    config = tiny_run("training.precision=bf16", f"training.deepspeed={file}")
    held = two_ranks.run(bytes_a_parameter, with_words(config, micro_batch_rows=1))
    assert held == pytest.approx([n_bytes] * 2, rel=0.03)


def bytes_a_parameter(config) -> float:
    join_ranks()
    before = bytes_of_tensors()
    engine = Engine(build_model(config.model, seed=0, device="cpu"), config)
    held = bytes_of_tensors() - before
    n_parameters = sum(p.numel() for p in engine.parameters.values())
    engine.release()
    return held / n_parameters


def bytes_of_tensors() -> int:
    gc.collect()
    tensors = [held for held in gc.get_objects() if isinstance(held, torch.Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def file_of(folder, *, communication_data_type="fp32", **zero) -> str:
    file = folder / f"{len(list(folder.iterdir()))}.json"
    zero = {"overlap_comm": True, "reduce_bucket_size": 10_000, **zero}
    settings = {"zero_optimization": zero, "communication_data_type": communication_data_type}
    file.write_text(json.dumps(settings))
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


@pytest.mark.parametrize("kind", [Sending, Partitioning])
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=7),
    st.integers(1, 9),
    st.data(),
)
def test_sums_are_right_whatever_comes_in_whatever_order(kind, sizes, n_elements, data):
    """Of each micro-batch some parameters have a gradient, in an order of their own."""
    join_ranks()
    flat = Flat(sizes, n_elements)
    parameters = [parameter for group in flat.bf16_groups for parameter in group]
    lengths = [[p.numel() for p in group] for group in flat.bf16_groups]
    sending = kind(flat, parameters)
    for _ in range(2):
        expected = torch.zeros(len(sizes))
        n_micro_batches = data.draw(st.integers(1, 3))
        for number in range(n_micro_batches):
            sending.begin(is_last=number == n_micro_batches - 1)
            drawn = data.draw(st.permutations(range(len(sizes))))
            for index in drawn[: data.draw(st.integers(0, len(sizes)))]:
                (parameters[index].sum() * (index + 1)).backward()
                expected[index] += index + 1
            sending.end()
        own = zip(flat.fp32_groups_gradient_flat_partition, lengths, strict=True)
        sums = [total for group, n_own in own for total in group[:-1].split(n_own)]
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
