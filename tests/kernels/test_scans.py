"""The chunked scans against their recurrences, and the recurrences against themselves."""

import math

import pytest
import torch
from torch.nn import functional as F

from helix.kernels.gla import gla_chunked, gla_reference
from helix.kernels.ssd import ssd_chunked, ssd_reference
from tests.numerics import assert_close, draw_starts, gradients

LENGTHS = (1, 63, 64, 1000)


def gla_inputs(n_tokens, k=8, v=6, *, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    shapes = [(2, n_tokens, 2, k), (2, n_tokens, 2, k), (2, n_tokens, 2, v), (2, n_tokens, 2, k)]
    inputs = [torch.randn(shape, dtype=dtype) for shape in shapes]
    inputs[3] = F.logsigmoid(inputs[3])
    return [x.requires_grad_() for x in (*inputs, torch.randn(2, 2, k, v, dtype=dtype))]


def ssd_inputs(n_tokens, p=6, n=8, *, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    dt = torch.rand(2, n_tokens, 4, dtype=dtype)
    groups = [torch.randn(2, n_tokens, 2, n, dtype=dtype) for _ in range(2)]
    x, state = torch.randn(2, n_tokens, 4, p, dtype=dtype), torch.randn(2, 4, p, n, dtype=dtype)
    rates, skip = -torch.rand(4, dtype=dtype), torch.randn(4, dtype=dtype)
    inputs = (x, dt, rates, *groups, skip, state)
    return [y.detach().requires_grad_() for y in inputs]


SCANS = {
    "gla": (gla_reference, gla_chunked, gla_inputs),
    "ssd": (ssd_reference, ssd_chunked, ssd_inputs),
}
each_scan = pytest.mark.parametrize("name", SCANS)


def run(kernel, inputs, starts, *, with_state=True, **options):
    *inputs, state = inputs
    return kernel(*inputs, starts, state if with_state else None, **options)


@each_scan
@pytest.mark.parametrize("n_tokens", LENGTHS)
@pytest.mark.parametrize("with_state", [True, False])
def test_chunked_equals_reference(name, n_tokens, with_state):
    reference, chunked, make = SCANS[name]
    inputs, starts = make(n_tokens), draw_starts(2, n_tokens, chance=0.02)
    expected = run(reference, inputs, starts, with_state=with_state)
    actual = run(chunked, inputs, starts, with_state=with_state)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)
    for a, e in zip(gradients(actual, inputs), gradients(expected, inputs), strict=True):
        assert_close(a, e)


@each_scan
@pytest.mark.parametrize("chunk_tokens", [1, 2, 16, 32, 128])
def test_result_is_the_same_for_any_chunk_length(name, chunk_tokens):
    _, chunked, make = SCANS[name]
    inputs, starts = make(100), draw_starts(2, 100)
    expected = run(chunked, inputs, starts)
    actual = run(chunked, inputs, starts, chunk_tokens=chunk_tokens)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)


@each_scan
@pytest.mark.parametrize("form", [0, 1], ids=["reference", "chunked"])
def test_gradients_are_those_of_finite_differences(name, form):
    kernel, make = SCANS[name][form], SCANS[name][2]
    inputs, starts = make(5, 2, 2, dtype=torch.float64), draw_starts(2, 5, chance=0.3)
    options = {"chunk_tokens": 2} if form else {}
    assert torch.autograd.gradcheck(lambda *x: run(kernel, x, starts, **options), inputs)


@each_scan
@pytest.mark.parametrize("form", [0, 1], ids=["reference", "chunked"])
def test_state_is_forgotten_where_a_document_starts(name, form):
    kernel, make = SCANS[name][form], SCANS[name][2]
    inputs = make(40)
    starts = torch.zeros(2, 40, dtype=torch.bool)
    starts[:, 25] = True
    packed, last = run(kernel, inputs, starts)
    after = [x if x.ndim == 1 else x[:, 25:] for x in inputs[:-1]]  # rates have no time
    alone, last_alone = kernel(*after, starts[:, 25:])
    assert_close(packed[:, 25:], alone)
    assert_close(last, last_alone)
    before = gradients((packed[:, 25:], last), inputs)
    assert all((g[:, :25] == 0).all() for g in before[:-1] if g.ndim > 1)
    assert (before[-1] == 0).all()


@each_scan
def test_half_precision_is_computed_in_float32(name):
    reference, chunked, make = SCANS[name]
    inputs, starts = [x.bfloat16() for x in make(130)], draw_starts(2, 130)
    inputs[-1] = inputs[-1].float()
    y, state = run(chunked, inputs, starts)
    expected, last = run(reference, [x.float() for x in inputs], starts)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert_close(y, expected)
    assert_close(state, last)


def test_ssd_equals_its_dense_quadratic_form():
    """Dao and Gu 2024, equation 3: y = (L * C B^T) (dt x) + D x, L_ts the product of decays."""
    x, dt, a, b, c, skip, _ = ssd_inputs(50)
    starts = draw_starts(2, 50)
    b, c = (z.repeat_interleave(2, dim=2) for z in (b, c))
    document = starts.cumsum(1)
    same = document[:, :, None] == document[:, None, :]
    total = (dt * a).double().cumsum(1)
    apart = (total[:, :, None] - total[:, None, :]).movedim(-1, 1)
    mask = same[:, None] & torch.ones(50, 50, dtype=torch.bool).tril()
    decay = apart.masked_fill(~mask, -math.inf).exp()
    scores = decay * torch.einsum("bthn,bshn->bhts", c, b)
    expected = torch.einsum("bhts,bsh,bshp->bthp", scores, dt.double(), x.double())
    expected = expected + skip.double()[:, None] * x.double()
    y, _ = ssd_chunked(x, dt, a, b, c, skip, starts, chunk_tokens=16)
    assert_close(y, expected)


@pytest.mark.parametrize("kernel", [gla_reference, gla_chunked])
class TestDecayIsOfTheKeys:
    def test_permuted_values_permute_outputs(self, kernel):
        q, k, v, g, state = gla_inputs(70)
        starts, order = draw_starts(2, 70), torch.randperm(v.shape[-1])
        y, last = kernel(q, k, v, g, starts, state)
        permuted, permuted_last = kernel(q, k, v[..., order], g, starts, state[..., order])
        assert_close(permuted, y[..., order])
        assert_close(permuted_last, last[..., order])

    def test_decay_of_one_key_channel_touches_no_other(self, kernel):
        q, k, v, g, state = gla_inputs(70)
        starts = draw_starts(2, 70)
        faster = g.detach().clone()
        faster[..., 3] *= 5
        _, last = kernel(q, k, v, g, starts, state)
        _, changed = kernel(q, k, v, faster, starts, state)
        others = [0, 1, 2, 4, 5, 6, 7]
        assert torch.equal(changed[..., others, :], last[..., others, :])
        assert not torch.allclose(changed[..., 3, :], last[..., 3, :])


@pytest.mark.parametrize("strength", [0.0, -5.0, -50.0, -1e4])
def test_gla_is_right_at_any_strength_of_decay(strength):
    *inputs, state = gla_inputs(150)
    with torch.no_grad():
        inputs[3][:, 20:90, :, ::2] = strength
        inputs[3][0, 100:] = strength
    starts = draw_starts(2, 150)
    inputs = [*inputs, state]
    expected, actual = run(gla_reference, inputs, starts), run(gla_chunked, inputs, starts)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)
    for a, e in zip(gradients(actual, inputs), gradients(expected, inputs), strict=True):
        assert a.isfinite().all()
        assert_close(a, e)


@each_scan
def test_ssd_and_gla_forget_under_extreme_decay_without_nan(name):
    _, chunked, make = SCANS[name]
    inputs, starts = make(150), draw_starts(2, 150)
    place = {"gla": 3, "ssd": 2}[name]
    with torch.no_grad():
        inputs[place].fill_(-1e4)
    outputs = run(chunked, inputs, starts)
    assert all(x.isfinite().all() for x in (*outputs, *gradients(outputs, inputs)))
