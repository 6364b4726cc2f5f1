"""Runs our Triton norms and gates on a CPU under Triton's interpreter; test_triton.py starts it."""

from helix.kernels import pointwise
from helix.kernels import triton_pointwise as gpu_pointwise
from tests.kernels.interpreted.checks import assert_same, leaf, run


def check_norm() -> None:
    for shape in ((1, 7), (3, 63, 128), (2, 10, 5, 256)):
        x, weight = leaf(*shape), leaf(shape[-1])
        expected = pointwise.rms_norm(x, weight, eps=1e-6)
        assert_same(gpu_pointwise.rms_norm(x, weight, eps=1e-6), expected, [x, weight])


def check_glu() -> None:
    for shape in ((1, 2), (3, 33, 192), (2, 4, 4096)):
        x = leaf(*shape)
        assert_same(gpu_pointwise.glu(x), pointwise.glu(x), [x])


if __name__ == "__main__":
    run(check_norm, check_glu)
