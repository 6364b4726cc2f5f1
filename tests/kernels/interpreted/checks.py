"""What the checks under Triton's interpreter share."""

from collections.abc import Callable

import numpy as np
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
    refuse_foreign_memory()
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


def refuse_foreign_memory() -> None:
    """Fail where a kernel reads or writes outside the storages of the tensors it was given.

    On a GPU such a read mostly goes unseen: the allocator's blocks are larger than what is used.
    """
    bounds = np.empty((2, 0), np.uint64)
    executor, builder = interpreter.GridExecutor, interpreter.InterpreterBuilder
    hand_over = executor._init_args_hst

    def note_bounds(self, args, kwargs):
        nonlocal bounds
        given = hand_over(self, args, kwargs)
        tensors = [getattr(x, "base", x) for x in (*given[0], *given[1].values())]
        storages = [x.untyped_storage() for x in tensors if hasattr(x, "untyped_storage")]
        pairs = sorted({(x.data_ptr(), x.data_ptr() + x.nbytes()) for x in storages})
        bounds = np.array(pairs, np.uint64).reshape(-1, 2).T
        return given

    def check(pointers, mask):
        wanted = np.broadcast_to(mask.data, pointers.data.shape) != 0  # the interpreter's are int32
        first = pointers.data[wanted]
        last = first + np.uint64(pointers.get_element_ty().primitive_bitwidth // 8)
        place = np.searchsorted(bounds[0], first, side="right").astype(np.int64) - 1
        inside = (place >= 0) & (last <= bounds[1][place])
        assert inside.all(), f"{(~inside).sum()} of {inside.size} elements lie outside the tensors"

    def watch(name, pointers_at, mask_at):
        access = getattr(builder, name)

        def watched(self, *given, **words):
            check(given[pointers_at], given[mask_at])
            return access(self, *given, **words)

        setattr(builder, name, watched)

    executor._init_args_hst = note_bounds
    watch("create_masked_load", 0, 1)
    watch("create_masked_store", 0, 2)
    watch("create_atomic_rmw", 1, 3)
