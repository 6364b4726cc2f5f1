"""Runs our Triton norms and gates on a CPU under Triton's interpreter; test_triton.py starts it."""

import torch

from helix.kernels import pointwise
from helix.kernels import triton_gated_norm as gpu_gated_norm
from helix.kernels import triton_gates as gpu_gates
from helix.kernels import triton_norm as gpu_norm
from helix.kernels import triton_rotary as gpu_rotary
from tests.kernels.interpreted.checks import assert_same, leaf, run

EPS = {"eps": 1e-6}


def check_norm() -> None:
    for shape in ((1, 7), (3, 63, 128), (2, 10, 5, 256)):
        x, weight = leaf(*shape), leaf(shape[-1])
        expected = pointwise.rms_norm(x, weight, **EPS)
        assert_same(gpu_norm.rms_norm(x, weight, **EPS), expected, [x, weight])


def check_norm_reads_heads_in_place() -> None:
    whole, weight = leaf(2, 20, 6, 40), leaf(40)
    x = whole[:, :, 1:4]
    assert gpu_norm.rows_of(x).tensor.data_ptr() == x.data_ptr()
    expected = pointwise.rms_norm(x, weight, **EPS)
    assert_same(gpu_norm.rms_norm(x, weight, **EPS), expected, [whole, weight])
    turned = x.transpose(1, 2)
    expected = pointwise.rms_norm(turned, weight, **EPS)
    assert_same(gpu_norm.rms_norm(turned, weight, **EPS), expected, [whole, weight])


def check_residual_norm() -> None:
    for shape in ((1, 1, 7), (2, 9, 128), (2, 3, 1280)):
        x, added, weight = leaf(*shape), leaf(*shape), leaf(shape[-1])
        for more, inputs in ((added, [x, added, weight]), (None, [x, weight])):
            for used in (slice(None), 0, 1):
                expected = pointwise.residual_norm(x, more, weight, **EPS)[used]
                actual = gpu_norm.residual_norm(x, more, weight, **EPS)[used]
                assert_same(actual, expected, inputs)


def check_norm_whose_programs_take_several_tiles() -> None:
    x, added, weight = leaf(60, 1280), leaf(60, 1280), leaf(1280)
    gate = leaf(60, 1280)
    gpu_norm.PROCESSORS, processors = 2, gpu_norm.PROCESSORS
    expected = pointwise.residual_norm(x, added, weight, **EPS)
    assert_same(gpu_norm.residual_norm(x, added, weight, **EPS), expected, [x, added, weight])
    for first in (True, False):
        expected = pointwise.gated_norm(x, gate, weight, **EPS, gate_first=first)
        actual = gpu_gated_norm.gated_norm(x, gate, weight, **EPS, gate_first=first)
        assert_same(actual, expected, [x, gate, weight])
    gpu_norm.PROCESSORS = processors


def check_gated_norm() -> None:
    for gate_first in (True, False):
        for n_heads, d in ((1, 7), (5, 48), (3, 256)):
            whole, x, weight = leaf(2, 11, (n_heads + 2) * d), leaf(2, 11, n_heads, d), leaf(d)
            gate = whole[..., d : (n_heads + 1) * d].unflatten(-1, (n_heads, d))
            assert gpu_norm.rows_of(gate).tensor.data_ptr() == gate.data_ptr()
            expected = pointwise.gated_norm(x, gate, weight, **EPS, gate_first=gate_first)
            actual = gpu_gated_norm.gated_norm(x, gate, weight, **EPS, gate_first=gate_first)
            assert_same(actual, expected, [x, whole, weight])


def check_glu() -> None:
    for shape in ((1, 2), (3, 33, 192), (2, 4, 4096)):
        x = leaf(*shape)
        assert_same(gpu_gates.glu(x), pointwise.glu(x), [x])


def check_log_decay() -> None:
    for shape in ((1, 1, 5), (2, 30, 48)):
        x = leaf(*shape)
        for scale, shift in ((1, 0), (30, 0), (1, 12)):
            expected = pointwise.log_decay(scale * x + shift, temperature=16.0)
            actual = gpu_gates.log_decay(scale * x + shift, temperature=16.0)
            assert_same(actual, expected, [x])


def check_rotary() -> None:
    for d in (2, 6, 128):
        whole, angle = leaf(2, 19, 5, d), torch.randn(2, 19, d // 2)
        cos, sin = angle.cos(), angle.sin()
        for x in (whole, whole[:, :, 1:3], whole.transpose(1, 2).contiguous().transpose(1, 2)):
            assert_same(gpu_rotary.rotary(x, cos, sin), pointwise.rotary(x, cos, sin), [whole])


if __name__ == "__main__":
    run(
        check_norm,
        check_norm_reads_heads_in_place,
        check_residual_norm,
        check_norm_whose_programs_take_several_tiles,
        check_gated_norm,
        check_glu,
        check_log_decay,
        check_rotary,
    )
