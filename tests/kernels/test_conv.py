import pytest
import torch
from torch.nn import functional as F

from helix.kernels.conv import causal_conv, causal_conv_reference
from tests.numerics import assert_close, draw_starts, gradients

FORMS = [causal_conv_reference, causal_conv]


def conv_inputs(n_tokens, *, n_taps=4, dtype=torch.float32):
    torch.manual_seed(0)
    shapes = [(2, n_tokens, 5), (5, n_taps), (5,), (2, n_taps - 1, 5)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 63, 64, 1000])
@pytest.mark.parametrize("chance", [0.0, 0.05, 0.6])
@pytest.mark.parametrize("given", ["tail", "no tail", "no bias"])
def test_sum_of_shifts_equals_reference(n_tokens, chance, given):
    x, weight, bias, tail = inputs = conv_inputs(n_tokens)
    starts = draw_starts(2, n_tokens, chance=chance)
    arguments = (
        x,
        weight,
        None if given == "no bias" else bias,
        starts,
        None if given == "no tail" else tail,
    )
    expected, actual = causal_conv_reference(*arguments), causal_conv(*arguments)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)
    for a, e in zip(gradients(actual, inputs), gradients(expected, inputs), strict=True):
        assert_close(a, e)


@pytest.mark.parametrize("kernel", FORMS)
@pytest.mark.parametrize("silu", [True, False])
def test_gradients_are_those_of_finite_differences(kernel, silu):
    inputs, starts = conv_inputs(6, dtype=torch.float64), draw_starts(2, 6, chance=0.3)
    assert torch.autograd.gradcheck(
        lambda x, w, b, t: kernel(x, w, b, starts, t, silu=silu), inputs
    )


@pytest.mark.parametrize("kernel", FORMS)
def test_silu_follows_the_convolution(kernel):
    x, weight, bias, tail = conv_inputs(20)
    starts = draw_starts(2, 20)
    plain, _ = kernel(x, weight, bias, starts, tail)
    y, last = kernel(x, weight, bias, starts, tail, silu=True)
    assert torch.equal(y, F.silu(plain))
    assert torch.equal(last, kernel(x, weight, bias, starts, tail)[1])


@pytest.mark.parametrize("kernel", FORMS)
@pytest.mark.parametrize("cut", range(1, 9))
def test_tail_carries_over_any_cut(kernel, cut):
    x, weight, bias, tail = conv_inputs(9)
    starts = draw_starts(2, 9, chance=0.3)
    whole, last = kernel(x, weight, bias, starts, tail)
    head, tail = kernel(x[:, :cut], weight, bias, starts[:, :cut], tail)
    rest, tail = kernel(x[:, cut:], weight, bias, starts[:, cut:], tail)
    assert_close(torch.cat((head, rest), dim=1), whole)
    assert torch.equal(tail, last)


@pytest.mark.parametrize("kernel", FORMS)
def test_tail_keeps_nothing_of_an_earlier_document(kernel):
    x, weight, bias, tail = conv_inputs(6)
    starts = torch.zeros(2, 6, dtype=torch.bool)
    starts[:, 4] = True
    _, tail = kernel(x, weight, bias, starts, tail)
    assert (tail[:, 0] == 0).all()
    assert torch.equal(tail[:, 1:], x[:, 4:])


@pytest.mark.parametrize("kernel", FORMS)
def test_one_tap_needs_no_tail(kernel):
    x, weight, bias, tail = conv_inputs(5, n_taps=1)
    y, tail = kernel(x, weight, bias, draw_starts(2, 5), tail)
    assert_close(y, x * weight[:, 0] + bias)
    assert tail.shape == (2, 0, 5)


def test_half_precision_is_computed_in_float32():
    *inputs, tail = (x.detach().bfloat16() for x in conv_inputs(40))
    starts = draw_starts(2, 40)
    y, last = causal_conv(*inputs, starts, tail)
    expected, _ = causal_conv_reference(*(x.float() for x in inputs), starts, tail.float())
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.bfloat16)
    assert_close(y, expected)
