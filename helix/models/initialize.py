"""Every weight's initialisation, in one table.

Each parameter draws from a generator seeded by (seed, its name), so that a value depends neither
on the order of construction nor on the rank or device that holds it.

Dims: d_in the second axis of a matrix, L number of blocks.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from helix.distributed import derive_seed

Draw = Callable[[Tensor, torch.Generator], None]
DRAWN_AT_ONCE = 8  # parameters of a model that is never whole in one process


def normal(std: float) -> Draw:
    """Draw from N(0, std^2)."""

    def draw(weight: Tensor, generator: torch.Generator) -> None:
        weight.normal_(0.0, std, generator=generator)

    return draw


def constant(value: float) -> Draw:
    """Set every entry to one value."""

    def draw(weight: Tensor, generator: torch.Generator) -> None:
        weight.fill_(value)

    return draw


def uniform(low: float, high: float) -> Draw:
    """Draw from U(low, high)."""

    def draw(weight: Tensor, generator: torch.Generator) -> None:
        weight.uniform_(low, high, generator=generator)

    return draw


def log_of_uniform(low: float, high: float) -> Draw:
    """Draw log(U(low, high)): the decay rates A of Mamba-2, kept as logarithms."""

    def draw(weight: Tensor, generator: torch.Generator) -> None:
        weight.uniform_(low, high, generator=generator).log_()

    return draw


def inverse_softplus_of_log_uniform(low: float, high: float) -> Draw:
    """Draw x with softplus(x) log-uniform in [low, high]: the step sizes dt of Mamba-2."""

    def draw(weight: Tensor, generator: torch.Generator) -> None:
        weight.uniform_(math.log(low), math.log(high), generator=generator).exp_()
        weight.add_(torch.log(-torch.expm1(-weight)))

    return draw


def table(name: str, weight: Tensor, *, n_blocks: int) -> Draw:
    """Choose how a parameter is drawn, by its name's last words and its shape."""
    module, _, leaf = name.rpartition(".")
    owner = module.rpartition(".")[2]
    if leaf == "A_log":
        return log_of_uniform(1.0, 16.0)  # Dao and Gu 2024, mamba_ssm Mamba2 defaults
    if leaf == "dt_bias":
        return inverse_softplus_of_log_uniform(1e-3, 1e-1)  # the same
    if leaf == "D" or (leaf == "weight" and owner.endswith("norm")):
        return constant(1.0)
    if leaf == "bias":
        return constant(0.0)
    if owner == "conv":
        bound = weight.shape[1] ** -0.5  # the fan-in of a depthwise filter is its width
        return uniform(-bound, bound)
    if owner == "embedding":
        # behind the last norm, logits of variance 1/4 and a first loss of ln V + 1/8
        return normal(0.5 * weight.shape[1] ** -0.5)
    std = math.sqrt(0.4 / weight.shape[1])  # Nguyen and Salazar 2019, arXiv:1910.05895: SmallInit
    if owner in ("out_proj", "down"):
        # 2 additions a block: Radford et al. 2019 (GPT-2), section 2.3
        std /= math.sqrt(2 * n_blocks)
    return normal(std)


def initialize(model: nn.Module, *, seed: int) -> None:
    """Set every parameter of a model; drawn on the CPU, so that devices agree."""
    draw = Drawer(model, seed=seed)

    @torch.no_grad()
    def fill(named: tuple[str, nn.Parameter]) -> None:
        name, parameter = named
        parameter.copy_(draw(name, parameter.shape))

    # One generator draws on one core: 0.9B parameters take some 10 s on it.
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, model.named_parameters()):
            pass  # an error is raised when its result is asked for


def materialise(
    model: nn.Module,
    settle: Callable[[nn.Parameter], None],
    *,
    seed: int,
    dtype: torch.dtype,
    is_drawn: bool,
) -> None:
    """Make the parameters of a model on the meta device a few at a time, as `initialize` does.

    Args:
        settle: Takes each on the CPU as soon as it is whole, and may share it out, so that no
            process ever holds the model.
        is_drawn: Whether values are drawn here; if not, they are whatever lies in memory, for
            `settle` to hear them from a process that drew them.
    """
    draw = Drawer(model, seed=seed)
    owners: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}  # a tied one has several
    names: dict[nn.Parameter, str] = {}
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            owners.setdefault(parameter, []).append((module, leaf))
            names.setdefault(parameter, f"{path}.{leaf}" if path else leaf)

    def make(parameter: nn.Parameter) -> nn.Parameter:
        if is_drawn:
            return nn.Parameter(draw(names[parameter], parameter.shape).to(dtype))
        return nn.Parameter(torch.empty(parameter.shape, dtype=dtype))

    held = list(owners)
    with ThreadPoolExecutor(DRAWN_AT_ONCE) as pool:
        for first in range(0, len(held), DRAWN_AT_ONCE):
            few = held[first : first + DRAWN_AT_ONCE]
            for parameter, made in zip(few, pool.map(make, few), strict=True):
                settle(made)
                for module, leaf in owners[parameter]:
                    setattr(module, leaf, made)


class Drawer:
    """Draws a model's parameters by name, in float32 on the CPU."""

    def __init__(self, model: nn.Module, *, seed: int) -> None:
        self.seed = seed
        self.n_blocks = sum(1 for name, _ in model.named_modules() if name.endswith(".mixer"))

    @torch.no_grad()
    def __call__(self, name: str, shape: torch.Size) -> Tensor:
        """Draw a parameter."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, name))
        drawn = torch.empty(shape, dtype=torch.float32)
        table(name, drawn, n_blocks=self.n_blocks)(drawn, generator)
        return drawn
