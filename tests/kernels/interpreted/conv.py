"""Runs our Triton convolution on a CPU under Triton's interpreter; test_triton.py starts it."""

import torch

from helix.kernels import conv
from helix.kernels import triton_conv as gpu_conv
from tests.kernels.interpreted.checks import assert_same, leaf, run
from tests.numerics import draw_starts


def check_conv() -> None:
    for n_tokens in (64, 130):
        whole, weight, bias = leaf(2, n_tokens, 160), leaf(130, 4), leaf(130)
        starts, x = draw_starts(2, n_tokens), whole[..., 20:150]
        y, tail = gpu_conv.causal_conv(x, weight, bias, starts)
        expected, last = conv.causal_conv(x, weight, bias, starts)
        assert_same(y, expected, [whole, weight, bias])
        assert torch.equal(tail, last)


if __name__ == "__main__":
    run(check_conv)
