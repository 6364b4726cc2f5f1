"""What every mixer promises, whatever its kind."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helix.mixers import MIXERS
from helix.mixers.base import MixerConfig
from tests.mixers.cases import CASES, D_MODEL, build, documents, draw_row, kind_of
from tests.numerics import assert_close, gradients

each_case = pytest.mark.parametrize("case", CASES)


def test_every_mixer_is_held_to_the_contracts():
    assert {kind_of(case) for case in CASES} == set(MIXERS)
    assert all(isinstance(CASES[case], MIXERS[kind_of(case)].Config) for case in CASES)
    assert all(isinstance(config, MixerConfig) for config in CASES.values())


@each_case
@pytest.mark.parametrize("changed", [1, 13, 29])
def test_output_ignores_later_tokens(case, changed):
    mixer, x, ids = build(case), draw_row(30), documents(18, 12).expand(2, -1)
    y, _ = mixer(x, ids)
    other = x.clone()
    other[:, changed] += 1
    z, _ = mixer(other, ids)
    assert torch.equal(z[:, :changed], y[:, :changed])
    assert not torch.equal(z[:, changed], y[:, changed])


@each_case
def test_packed_document_equals_itself_alone(case):
    mixer, x, ids = build(case), draw_row(41, n_rows=1).requires_grad_(), documents(9, 1, 20, 11)
    inside = slice(10, 30)
    learning = [x, *mixer.parameters()]
    packed = mixer(x, ids)[0][:, inside]
    alone = mixer(x[:, inside], ids[:, inside])[0]
    assert_close(packed, alone)
    of_packed, of_alone = gradients(packed, learning), gradients(alone, learning)
    for a, e in zip(of_packed, of_alone, strict=True):
        assert_close(a, e)
    of_packed[0][:, inside] = 0
    assert (of_packed[0] == 0).all()


@each_case
@given(data=st.data())
@settings(deadline=None, max_examples=8)
def test_state_carries_over_any_cut(case, data):
    lengths = data.draw(st.lists(st.integers(1, 14), max_size=4))
    lengths = [data.draw(st.integers(2, 14)), *lengths]  # one token alone has nothing to attend to
    n_tokens = sum(lengths)
    cut = data.draw(st.integers(1, n_tokens - 1))
    ids = torch.cat((documents(*lengths), documents(*reversed(lengths))))
    mixer, x = build(case), draw_row(n_tokens).requires_grad_()
    whole, last = mixer(x, ids)
    head, state = mixer(x[:, :cut], ids[:, :cut])
    tail, state = mixer(x[:, cut:], ids[:, cut:], state)
    actual = torch.cat((head, tail), dim=1)
    assert_close(actual, whole)
    for a, e in zip(state, last, strict=True):
        assert_close(a, e, dtype=torch.float32)
    learning = [x, *mixer.parameters()]
    for a, e in zip(gradients(actual, learning), gradients(whole, learning), strict=True):
        assert_close(a, e)


@each_case
def test_steps_of_one_token_equal_one_forward(case):
    mixer, x, ids = build(case), draw_row(30), documents(4, 19, 7).expand(2, -1)
    whole, last = mixer(x, ids)
    outputs, state = [], None
    for t in range(30):
        y, state = mixer(x[:, t : t + 1], ids[:, t : t + 1], state)
        outputs.append(y)
    assert_close(torch.cat(outputs, dim=1), whole)
    for a, e in zip(state, last, strict=True):
        assert_close(a, e, dtype=torch.float32)


@each_case
def test_rows_do_not_touch_each_other(case):
    mixer, x = build(case), draw_row(20)
    ids = torch.cat((documents(8, 12), documents(3, 2, 15)))
    together, _ = mixer(x, ids)
    apart = torch.cat([mixer(x[row : row + 1], ids[row : row + 1])[0] for row in range(2)])
    assert_close(together, apart)


@each_case
def test_every_parameter_receives_a_gradient(case):
    mixer = build(case)
    y, _ = mixer(draw_row(30), documents(18, 12).expand(2, -1))
    parameters = dict(mixer.named_parameters())
    flows = gradients(y, list(parameters.values()))
    assert not [name for name, flow in zip(parameters, flows, strict=True) if not flow.any()]


@each_case
@pytest.mark.parametrize("n_tokens", [1, 17])
def test_state_has_the_bytes_that_the_config_says(case, n_tokens):
    for dtype, bytes_per_value in ((torch.float32, 4), (torch.bfloat16, 2)):
        mixer, x = build(case).to(dtype), draw_row(n_tokens, n_rows=1).to(dtype)
        _, state = mixer(x, documents(n_tokens))
        told = CASES[case].state_bytes(D_MODEL, n_tokens, bytes_per_value=bytes_per_value)
        assert sum(x.nbytes for x in state) == told


@each_case
def test_state_grows_with_full_attention_only(case):
    mixer = build(case)
    shapes = {
        tuple(x.shape for x in mixer(draw_row(n), torch.zeros(2, n, dtype=torch.long))[1])
        for n in (1, 20, 50)
    }
    assert len(shapes) == (3 if kind_of(case) == "attention" else 1)


@each_case
def test_config_counts_the_parameters(case):
    with torch.device("meta"):
        mixer = MIXERS[kind_of(case)](CASES[case], D_MODEL)
    assert all(p.is_meta for p in mixer.parameters())
    assert sum(p.numel() for p in mixer.parameters()) == CASES[case].n_parameters(D_MODEL)


@each_case
def test_half_precision_goes_in_and_comes_out(case):
    mixer, x, ids = build(case).bfloat16(), draw_row(40).bfloat16(), documents(15, 25).expand(2, -1)
    y, state = mixer(x, ids)
    assert y.dtype == torch.bfloat16
    recurrent = {"mamba2": 1, "gla": 1}.get(kind_of(case), 0)
    assert [s.dtype for s in state if s.is_floating_point()] == [
        torch.float32 if place < recurrent else torch.bfloat16
        for place, _ in enumerate(s for s in state if s.is_floating_point())
    ]
    expected, _ = mixer.float()(x.float(), ids)
    assert_close(y, expected)


@each_case
def test_kept_state_is_not_changed_by_going_on(case):
    mixer, x, ids = build(case), draw_row(12), documents(12).expand(2, -1)
    _, state = mixer(x[:, :6], ids[:, :6])
    before = [s.clone() for s in state]
    mixer(x[:, 6:], ids[:, 6:], state)
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
