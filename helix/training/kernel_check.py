"""A warm start's first figures, with the fast kernels on and off.

Weights that were good elsewhere and score worse here are damaged, or a kernel is: the two look
alike in a loss curve. With every kernel's PyTorch form in the fast one's place they are told apart.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from helix import kernels
from helix.models import build_on_meta
from helix.models.base import LanguageModel, ModelConfig
from helix.training.rollback import TrainingError
from helix.training.validation import SourceScore

TOLERANCE = 0.01  # of bits per byte, relative; bf16 kernels differ by less than a thousandth


@contextmanager
def kernels_off(model: LanguageModel, config: ModelConfig) -> Iterator[None]:
    """Compute a model's kernels by their PyTorch forms inside."""
    with kernels.choosing("reference"):
        reference = build_on_meta(config)
    held: list[tuple[nn.Module, str, Any]] = []
    for module, slow in zip(model.modules(), reference.modules(), strict=True):
        for name, function in functions_of(slow).items():
            held.append((module, name, vars(module)[name]))
            setattr(module, name, function)
    try:
        yield
    finally:
        for module, name, function in held:
            setattr(module, name, function)


def functions_of(module: nn.Module) -> dict[str, Callable]:
    """Give the functions that a module was given when it was built."""
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and not hasattr(value, "__self__")
    }


def refuse_other_scores(on: Mapping[str, SourceScore], off: Mapping[str, SourceScore]) -> None:
    """Refuse kernels that make another model of the same weights.

    Raises:
        TrainingError: It names the source and both figures.
    """
    for name, score in on.items():
        one, other = score.bits_per_byte, off[name].bits_per_byte
        if not abs(one - other) <= TOLERANCE * other:  # nor is NaN
            raise TrainingError(
                f"training.warm_start: {name} costs {one:.4f} bits per byte with the kernels of "
                f"this GPU and {other:.4f} with their PyTorch forms: a kernel is wrong here; "
                "helix doctor preflight finds which, and model.*.backend=reference does without"
            )
