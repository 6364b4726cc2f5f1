"""Runs our Triton loss on a CPU under Triton's interpreter; test_triton.py starts it."""

import torch

from helix.kernels import cross_entropy
from helix.kernels import triton_cross_entropy as gpu_cross_entropy
from tests.kernels.interpreted.checks import assert_same, leaf, run


def check_cross_entropy() -> None:
    hidden, weight, targets = leaf(70, 32), leaf(5000, 32), torch.randint(0, 5000, (70,))
    targets[::5] = -100
    for lanes in (64, 1024):  # a row in ten blocks, and in one
        gpu_cross_entropy.LANES = lanes
        losses = [
            kernel.linear_cross_entropy(hidden, weight, targets, chunk_rows=32)
            for kernel in (gpu_cross_entropy, cross_entropy)
        ]
        assert_same(*losses, [hidden, weight])


if __name__ == "__main__":
    run(check_cross_entropy)
