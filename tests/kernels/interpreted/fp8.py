"""Runs our Triton passes for 8-bit floats on a CPU under Triton's interpreter.

The interpreter rounds to 8 bits wrongly (a carry into the exponent is lost) and knows no assembly:
here the formats are as wide as float32, so that scales, layouts and gradients are held to the
reference, and rounding is left to tests/kernels/test_gpu.py. test_triton.py starts this file.
"""

import torch

from helix.kernels import fp8, fp8_products, triton_fp8
from helix.kernels.fp8 import E4M3, E5M2, Format
from tests.kernels.interpreted.checks import assert_same, leaf, run
from tests.numerics import assert_close

VALUES, GRADIENTS = (Format(torch.float32, kind.top) for kind in (E4M3, E5M2))
REFERENCE = fp8.REFERENCE._replace(values=VALUES, gradients=GRADIENTS)
TRITON = triton_fp8.PRIMITIVES._replace(values=VALUES, gradients=GRADIENTS, product=fp8.product)


def assert_operands_same(actual: tuple, expected: tuple) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a.inverse, e.inverse)
        assert_close(a.values, e.values)


def check_quantise() -> None:
    for n, d in ((1, 16), (37, 80), (160, 208)):
        for size in (1e-30, 1.0, 3e4):
            x = torch.randn(n, d) * size
            expected = fp8.quantise(x, VALUES)
            assert_operands_same(triton_fp8.quantise(x, VALUES), expected)
    zeros = torch.zeros(5, 16)
    assert_operands_same(triton_fp8.quantise(zeros, VALUES), fp8.quantise(zeros, VALUES))
    for wrong in (torch.inf, -torch.inf, torch.nan):
        x = zeros.index_fill(1, torch.tensor([3]), wrong)
        for quantise in (triton_fp8.quantise, fp8.quantise):
            assert quantise(x, VALUES).rows.inverse.isnan()


def check_glu() -> None:
    for n, f in ((3, 16), (70, 144)):
        gate_up, d_y = torch.randn(n, 2 * f) * 3, torch.randn(n, f) * 1e-4
        actual, expected = (p.glu(gate_up, VALUES) for p in (TRITON, REFERENCE))
        assert_operands_same(actual[:1], expected[:1])
        assert_close(actual.largest, expected.largest)
        (both, y), (expected_both, expected_y) = (
            p.glu_gradient(gate_up, d_y, expected.largest, VALUES, GRADIENTS)
            for p in (TRITON, REFERENCE)
        )
        assert_operands_same((*both, y), (*expected_both, expected_y))


def check_products() -> None:
    inputs = [leaf(2, 21, 48), leaf(96, 48), leaf(48, 48)]
    assert_same(*(fp8_products.swiglu(*inputs, primitives=p) for p in (TRITON, REFERENCE)), inputs)
    inputs = [leaf(2, 21, 48), leaf(96, 48)]
    assert_same(*(fp8_products.linear(*inputs, primitives=p) for p in (TRITON, REFERENCE)), inputs)


def check_loss() -> None:
    hidden, weight, targets = leaf(70, 32), leaf(5008, 32), torch.randint(0, 5008, (70,))
    targets[::5] = -100
    losses = (
        fp8_products.linear_cross_entropy(hidden, weight, targets, chunk_rows=32, primitives=p)
        for p in (TRITON, REFERENCE)
    )
    assert_same(*losses, [hidden, weight])


if __name__ == "__main__":
    run(check_quantise, check_glu, check_products, check_loss)
