"""What the checks under Triton's interpreter share."""

from collections.abc import Callable

import torch
from triton.runtime import interpreter

from tests.numerics import assert_close, gradients

Results = torch.Tensor | tuple[torch.Tensor, ...]


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(shape).requires_grad_()


def assert_same(actual: Results, expected: Results, inputs: list[torch.Tensor]) -> None:
    """Compare results, and the gradients of a fixed projection of them."""
    if isinstance(actual, torch.Tensor):
        actual, expected = (actual,), (expected,)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)
    for a, e in zip(gradients(actual, inputs), gradients(expected, inputs), strict=True):
        assert_close(a, e)


def run(*checks: Callable[[], None]) -> None:
    """Run checks, and say which were run: a process that checks nothing must not pass."""
    let_scalars_bound_loops()
    torch.manual_seed(0)
    for check in checks:
        check()
        print(check.__name__)


def let_scalars_bound_loops() -> None:
    """Let range() take the interpreter's scalars, arrays of one element; NumPy 2.4 will not."""
    patch = interpreter._patch_lang_tensor

    def patch_further(tensor: object, scope: interpreter._LangPatchScope) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_further
