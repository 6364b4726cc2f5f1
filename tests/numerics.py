"""How close is close: one bound per dtype, on the relative root-mean-square error."""

import torch
from torch import Tensor

BOUNDS = {
    torch.float64: 1e-9,
    torch.float32: 2e-5,
    torch.bfloat16: 2e-2,
}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Divide the error's root mean square by that of what was expected."""
    actual, expected = actual.detach().double(), expected.detach().double()
    error = (actual - expected).square().mean().sqrt()
    size = expected.square().mean().sqrt()
    return float(error / size) if size > 0 else float(error)


def assert_close(actual: Tensor, expected: Tensor, *, dtype: torch.dtype | None = None) -> None:
    """Compare shape and values.

    Args:
        dtype: Whose bound holds, where it is not that of `actual`.
    """
    assert actual.shape == expected.shape
    if actual.numel() == 0:
        return
    error = relative_error(actual, expected)
    bound = BOUNDS[dtype or actual.dtype]
    assert error <= bound, f"relative RMS error {error:.2e} exceeds {bound:.0e}"


def gradients(outputs: Tensor | tuple[Tensor, ...], inputs: list[Tensor]) -> list[Tensor]:
    """Differentiate a fixed random projection of the outputs; zeros where nothing flows."""
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    generator = torch.Generator().manual_seed(7)
    total = sum(
        (y * torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)).sum()
        for y in outputs
        if y.requires_grad
    )
    return list(torch.autograd.grad(total, inputs, materialize_grads=True, allow_unused=True))


def draw_starts(n_rows: int, n_tokens: int, *, chance: float = 0.05, seed: int = 0) -> Tensor:
    """Draw where documents begin, at different places in each row."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n_rows, n_tokens, generator=generator) < chance


def positions_of(starts: Tensor, last_position: Tensor | None = None) -> Tensor:
    """Count positions within documents one by one."""
    position = -torch.ones(starts.shape[0], dtype=torch.int64)
    if last_position is not None:
        position = last_position
    positions = []
    for start in starts.unbind(1):
        position = torch.where(start, 0, position + 1)
        positions.append(position)
    return torch.stack(positions, dim=1)
