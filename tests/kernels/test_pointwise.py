"""The forms of norms, gates and rotations that a CPU trains with."""

import pytest
import torch
from torch.nn import functional as F

from helix.kernels import pointwise
from helix.layers import Rotary
from tests.numerics import assert_close

EPS = {"eps": 1e-6}


def leaf(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype).requires_grad_()


def test_norm_gives_rows_of_mean_square_one():
    x, weight = leaf(3, 5, 16), torch.full((16,), 2.0, dtype=torch.float64)
    y = pointwise.rms_norm(x, weight, **EPS)
    assert_close(
        y.square().mean(-1), torch.full((3, 5), 4.0, dtype=torch.float64), dtype=torch.float32
    )


@pytest.mark.parametrize(
    ("kernel", "shapes"),
    [
        (lambda x, w: pointwise.rms_norm(x, w, **EPS), [(2, 3, 5), (5,)]),
        (lambda x, y, w: pointwise.residual_norm(x, y, w, **EPS), [(2, 5), (2, 5), (5,)]),
        (lambda x, w: pointwise.residual_norm(x, None, w, **EPS), [(2, 5), (5,)]),
        (lambda *i: pointwise.gated_norm(*i, **EPS, gate_first=True), [(2, 5), (2, 5), (5,)]),
        (lambda *i: pointwise.gated_norm(*i, **EPS, gate_first=False), [(2, 5), (2, 5), (5,)]),
        (pointwise.glu, [(3, 8)]),
        (lambda x: pointwise.log_decay(x, temperature=4.0), [(2, 5)]),
        (lambda x: pointwise.rotary(x, torch.ones(2, 3, 2), torch.ones(2, 3, 2)), [(2, 3, 2, 4)]),
    ],
)
def test_gradients_are_those_of_finite_differences(kernel, shapes):
    assert torch.autograd.gradcheck(kernel, [leaf(*shape) for shape in shapes])


def test_nothing_added_leaves_the_stream_itself():
    x, weight = leaf(2, 3, 8), leaf(8)
    stream, normed = pointwise.residual_norm(x, None, weight, **EPS)
    assert stream is x
    assert torch.equal(normed, pointwise.rms_norm(x, weight, **EPS))


def test_gate_is_before_the_norm_or_behind_it():
    x, gate, weight = leaf(4, 8), leaf(4, 8), leaf(8)
    before, behind = (
        pointwise.gated_norm(x, gate, weight, **EPS, gate_first=first) for first in (True, False)
    )
    assert_close(before, pointwise.rms_norm(x * F.silu(gate), weight, **EPS))
    assert_close(behind, pointwise.rms_norm(x, weight, **EPS) * F.silu(gate))


def test_decay_is_a_root_of_a_sigmoid_in_float32():
    raw = torch.randn(50).bfloat16()
    y = pointwise.log_decay(raw, temperature=16.0)
    assert y.dtype == torch.float32
    assert_close((16 * y).exp(), raw.float().sigmoid())


def test_rotated_scores_depend_on_distance_alone():
    rotary = Rotary(16, theta=100.0)
    q, k = (leaf(1, 1, 2, 16, dtype=torch.float32).expand(1, 40, 2, 16) for _ in range(2))
    q, k = rotary(q, k, torch.arange(40)[None])
    scores = torch.einsum("bthd,bshd->bhts", q, k)
    assert_close(scores[..., 5:, 5:], scores[..., :-5, :-5])


def test_rotation_keeps_lengths_and_turns_back():
    x, angle = leaf(2, 9, 3, 8, dtype=torch.float32), torch.randn(2, 9, 4)
    y = pointwise.rotary(x, angle.cos(), angle.sin())
    assert_close(y.norm(dim=-1), x.norm(dim=-1))
    assert_close(pointwise.rotary(y, angle.cos(), -angle.sin()), x)
