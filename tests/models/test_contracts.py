"""What every model promises, whatever its family."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from helix.models import (
    FAMILIES,
    build_model,
    build_on_meta,
    build_shared_out,
    family_of,
)
from helix.models.base import ModelConfig
from tests.models.cases import CASES, N_VOCAB, batch_of, build, draw_tokens, hybrid, scoring
from tests.numerics import assert_close, relative_error

each_case = pytest.mark.parametrize("case", CASES)
LN_V = math.log(N_VOCAB)


def loss_and_gradients(model, batch):
    output = model(batch)
    return output.loss.detach(), torch.autograd.grad(output.loss, list(model.parameters()))


def test_every_family_is_held_to_the_contracts():
    assert {family_of(config) for config in CASES.values()} == set(FAMILIES)
    assert all(isinstance(config, ModelConfig) for config in CASES.values())


@each_case
@pytest.mark.parametrize("changed", [1, 13, 25])
def test_loss_ignores_later_tokens(case, changed):
    model, tokens = build(case), draw_tokens(30)
    other = tokens.clone()
    other[:, changed:] = (tokens[:, changed:] + 1) % N_VOCAB
    before, after = slice(0, changed - 1), slice(changed, None)
    losses = [
        [model(scoring(batch_of(ids), part)).loss for part in (before, after)]
        for ids in (tokens, other)
    ]
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]


@each_case
def test_prediction_from_each_prefix_is_what_the_loss_is_taken_of(case):
    model, tokens = build(case), draw_tokens(18)
    batch = batch_of(tokens)
    for t in range(batch.tokens.shape[1]):
        logits, _ = model.predict(tokens[:, : t + 1])
        expected = F.cross_entropy(logits, tokens[:, t + 1])
        assert_close(model(scoring(batch, slice(t, t + 1))).loss, expected)


@each_case
@given(first=st.integers(3, 14), lengths=st.lists(st.integers(2, 14), max_size=3))
@settings(deadline=None, max_examples=6)
def test_packed_documents_cost_and_teach_what_they_do_alone(case, first, lengths):
    # one token alone has nothing to attend to, and then its queries' gradient is rounding
    model = build(case).double()
    documents = [draw_tokens(length, seed=seed) for seed, length in enumerate([first, *lengths])]
    loss, flows = loss_and_gradients(model, batch_of(*documents))
    alone = [loss_and_gradients(model, batch_of(document)) for document in documents]
    assert_close(loss, torch.stack([own_loss for own_loss, _ in alone]).sum())
    for flow, *own in zip(flows, *(own_flows for _, own_flows in alone), strict=True):
        assert_close(flow, torch.stack(own).sum(0))


@each_case
@given(data=st.data())
@settings(deadline=None, max_examples=8)
def test_prediction_goes_on_from_any_cut(case, data):
    n_tokens = data.draw(st.integers(2, 40))
    cut = data.draw(st.integers(1, n_tokens - 1))
    model, tokens = build(case), draw_tokens(n_tokens, n_rows=2)
    whole, last = model.predict(tokens)
    _, state = model.predict(tokens[:, :cut])
    logits, state = model.predict(tokens[:, cut:], state)
    assert_close(logits, whole)
    for layer, expected in zip(state, last, strict=True):
        for a, e in zip(layer, expected, strict=True):
            assert_close(a, e, dtype=torch.float32)


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_tokens_one_at_a_time_equal_the_whole_at_once(case, dtype):
    model, tokens = build(case).to(dtype), draw_tokens(37)
    logits, state = model.predict(tokens[:, :9])
    for t in range(9, 37):
        logits, state = model.predict(tokens[:, t : t + 1], state)
        whole, _ = model.predict(tokens[:, : t + 1])
        assert logits.dtype == dtype
        assert_close(logits, whole)


@each_case
def test_every_parameter_receives_a_gradient_within_one_batch(case):
    model = build(case)
    _, flows = loss_and_gradients(model, batch_of(draw_tokens(30), draw_tokens(12, seed=1)))
    names = [name for name, _ in model.named_parameters()]
    assert not [name for name, flow in zip(names, flows, strict=True) if not flow.any()]


@each_case
def test_first_loss_is_that_of_an_even_guess(case):
    with torch.no_grad():
        output = build(case)(batch_of(draw_tokens(2000)))
    assert output.n_targets == 1999
    assert float(output.loss) / output.n_targets == pytest.approx(LN_V, abs=0.2)


@each_case
def test_loss_is_finite_at_one_token(case):
    loss, flows = loss_and_gradients(build(case), batch_of(draw_tokens(2)))
    assert all(torch.isfinite(x).all() for x in (loss, *flows))


@each_case
def test_batch_without_targets_costs_and_teaches_nothing(case):
    batch = scoring(batch_of(draw_tokens(9)), slice(0))
    loss, flows = loss_and_gradients(build(case), batch)
    assert (float(loss), batch.n_targets) == (0, 0)
    assert not any(flow.any() for flow in flows)


@each_case
def test_tied_weight_stays_one_tensor(case):
    model = build_on_meta(CASES[case]).to_empty(device="cpu")
    assert model.head.weight is not model.embedding.weight, "to_empty no longer unties: drop tie"
    model.tie_weights()
    for tied in (model, build(case), build(case).double()):
        assert tied.head.weight is tied.embedding.weight
        named = [name for name, p in tied.named_parameters() if p is tied.head.weight]
        assert named == ["embedding.weight"]


@each_case
@pytest.mark.parametrize("n_tokens", [1, 23])
def test_state_has_the_bytes_that_the_config_says(case, n_tokens):
    for dtype, bytes_per_value in ((torch.float32, 4), (torch.bfloat16, 2)):
        _, state = build(case).to(dtype).predict(draw_tokens(n_tokens))
        told = CASES[case].state_bytes(n_tokens, bytes_per_value=bytes_per_value)
        assert sum(x.nbytes for layer in state for x in layer) == told


@each_case
def test_state_grows_with_full_attention_alone(case):
    told = {CASES[case].state_bytes(n, bytes_per_value=2) for n in (1, 100, 10_000)}
    assert (len(told) > 1) == ("attention" in CASES[case].kinds())


@each_case
def test_half_precision_loses_little(case):
    model, batch = build(case), batch_of(draw_tokens(40), draw_tokens(9, seed=1))
    expected = model(batch).loss
    loss = model.bfloat16()(batch).loss
    assert loss.dtype == torch.float32
    assert relative_error(loss, expected) < 5e-3


def test_weights_depend_on_seed_and_name_alone():
    model = build_model(hybrid(pattern="mamba2 gla sparse"), seed=3, device="cpu")
    for pattern in ("mamba2 sparse gla", "gla sparse mamba2"):
        config = hybrid(pattern=pattern, n_vocab=N_VOCAB, recompute="full")
        other = dict(build_model(config, seed=3, device="cpu").named_parameters())
        shared = [
            (p, other[name])
            for name, p in model.named_parameters()
            if name in other and other[name].shape == p.shape
        ]
        assert len(shared) >= 3 * 4 + 2  # norms and MLPs of all blocks, last norm, embedding
        assert all(torch.equal(p, q) for p, q in shared)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_is_shared_out_piece_by_piece_has_the_weights_of_one_that_is_built_whole(
    dtype,
):
    config = hybrid(pattern="mamba2 gla sparse")
    settled = []

    def settle(parameter):
        settled.append((parameter, parameter.data.clone()))
        parameter.data = parameter.data.new_empty(0)
        # no more is alive than what is being made, and the first of these may be gone already
        assert not any(other.numel() for other, _ in settled)

    model = build_shared_out(config, settle, seed=3, dtype=dtype, is_drawn=True)
    expected = dict(build_model(config, seed=3, device="cpu").named_parameters())
    found = dict(model.named_parameters())
    assert list(found) == list(expected)
    assert len(settled) == len(found)  # the tied one once
    for (name, parameter), (same, value) in zip(found.items(), settled, strict=True):
        assert parameter is same, name
        assert torch.equal(value, expected[name].to(dtype)), name
    assert model.head.weight is model.embedding.weight


def test_each_block_draws_weights_of_its_own():
    model = build_model(hybrid(pattern="gla*3"), seed=0, device="cpu")
    first, *others = [block.mlp.gate_up.weight for block in model.stack.blocks]
    assert not any(torch.equal(first, other) for other in others)


@each_case
def test_another_seed_draws_other_weights(case):
    constants = ("norm.weight", ".D", ".bias")
    pairs = zip(build(case).named_parameters(), build(case, seed=1).parameters(), strict=True)
    for (name, p), q in pairs:
        assert torch.equal(p, q) == name.endswith(constants), name


@each_case
@torch.no_grad()
def test_special_weights_survive_the_building(case):
    config = CASES[case]
    for name, p in build(case).named_parameters():
        leaf = name.rpartition(".")[2]
        if leaf == "A_log":
            assert ((p.exp() >= 1) & (p.exp() <= 16)).all()
        elif leaf == "dt_bias":
            steps = F.softplus(p.double())
            assert ((steps >= 0.999e-3) & (steps <= 0.1001)).all()
        elif leaf == "D" or name.endswith("norm.weight"):
            assert (p == 1).all()
        elif name.endswith((".out_proj.weight", ".down.weight")):
            std = math.sqrt(0.4 / p.shape[1] / (2 * len(config.kinds())))
            assert float(p.std()) == pytest.approx(std, rel=0.1)
        assert torch.isfinite(p).all()
