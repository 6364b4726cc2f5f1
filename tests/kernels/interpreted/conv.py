"""Runs our Triton convolution on a CPU under Triton's interpreter; test_triton.py starts it."""

import torch

from helix.kernels import conv
from helix.kernels import triton_conv as gpu_conv
from tests.kernels.interpreted.checks import assert_same, leaf, run
from tests.numerics import draw_starts


def check_conv() -> None:
    for n_tokens, n_taps, silu in ((64, 4, True), (131, 4, False), (66, 2, True), (65, 1, True)):
        whole, weight, bias = leaf(2, n_tokens, 300), leaf(270, n_taps), leaf(270)
        starts, x = draw_starts(2, n_tokens, chance=0.2), whole[..., 20:290]
        y, tail = gpu_conv.causal_conv(x, weight, bias, starts, silu=silu)
        expected, last = conv.causal_conv(x, weight, bias, starts, silu=silu)
        assert_same(y, expected, [whole, weight, bias])
        assert torch.equal(tail, last)


def check_documents_that_begin_where_programs_meet() -> None:
    x, weight = leaf(9, 134, 8), leaf(8, 4)
    starts = torch.zeros(9, 134, dtype=torch.bool)
    for row in range(9):
        for meeting in (gpu_conv.FORWARD["RUN"], gpu_conv.BACKWARD["RUN"]):
            starts[row, meeting - 4 + row] = True
    y, _ = gpu_conv.causal_conv(x, weight, None, starts, silu=True)
    expected, _ = conv.causal_conv(x, weight, None, starts, silu=True)
    assert_same(y, expected, [x, weight])


if __name__ == "__main__":
    run(check_conv, check_documents_that_begin_where_programs_meet)
