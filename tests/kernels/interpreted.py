"""Runs our Triton kernels on a CPU under Triton's interpreter; test_triton.py starts it."""

import torch

from helix.kernels import conv, cross_entropy, pointwise
from helix.kernels import triton_conv as gpu_conv
from helix.kernels import triton_cross_entropy as gpu_cross_entropy
from helix.kernels import triton_pointwise as gpu_pointwise
from tests.numerics import assert_close, draw_starts, gradients


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(shape).requires_grad_()


def assert_same(actual, expected, inputs) -> None:
    assert_close(actual, expected)
    for a, e in zip(gradients(actual, inputs), gradients(expected, inputs), strict=True):
        assert_close(a, e)


def check_conv() -> None:
    for n_tokens in (64, 130):
        whole, weight, bias = leaf(2, n_tokens, 160), leaf(130, 4), leaf(130)
        starts, x = draw_starts(2, n_tokens), whole[..., 20:150]
        y, tail = gpu_conv.causal_conv(x, weight, bias, starts)
        expected, last = conv.causal_conv(x, weight, bias, starts)
        assert_same(y, expected, [whole, weight, bias])
        assert torch.equal(tail, last)


def check_norm() -> None:
    for shape in ((1, 7), (3, 63, 128), (2, 10, 5, 256)):
        x, weight = leaf(*shape), leaf(shape[-1])
        expected = pointwise.rms_norm(x, weight, eps=1e-6)
        assert_same(gpu_pointwise.rms_norm(x, weight, eps=1e-6), expected, [x, weight])


def check_glu() -> None:
    for shape in ((1, 2), (3, 33, 192), (2, 4, 4096)):
        x = leaf(*shape)
        assert_same(gpu_pointwise.glu(x), pointwise.glu(x), [x])


def check_cross_entropy() -> None:
    hidden, weight, targets = leaf(70, 32), leaf(5000, 32), torch.randint(0, 5000, (70,))
    targets[::5] = -100
    losses = [
        kernel.linear_cross_entropy(hidden, weight, targets, chunk_rows=32)
        for kernel in (gpu_cross_entropy, cross_entropy)
    ]
    assert_same(*losses, [hidden, weight])


if __name__ == "__main__":
    torch.manual_seed(0)
    for check in (check_conv, check_norm, check_glu, check_cross_entropy):
        check()
        print(check.__name__)
