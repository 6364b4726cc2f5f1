"""AdamW and the rule that says which parameters decay."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# They set time scales, which weight decay would lengthen and bf16 would round by up to a percent.
TIME_SCALES = ("A_log", "dt_bias", "D")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101).

    Attributes:
        learning_rate: The peak; schedule moves it.
        weight_decay: Applied to matrices only, see `is_decayed`.
    """

    learning_rate: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.learning_rate < math.inf and 0 < self.eps < math.inf):
            raise ValueError(
                f"optimizer.learning_rate={self.learning_rate}, optimizer.eps={self.eps}: "
                "give numbers above 0"
            )
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: give a value in [0, 1)")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"optimizer.weight_decay={self.weight_decay}: give 0 or more")


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Tell whether weight decay applies: to the matrices of linear maps and to nothing else.

    Norms, biases, convolution filters, SSM parameters and the tied embedding do not decay: a
    row of the embedding that is rarely seen would shrink to nothing (OLMo 2, arXiv:2501.00656).
    """
    leaf = name.rpartition(".")[2]
    shape = getattr(parameter, "ds_shape", parameter.shape)  # deepspeed's, where it is shared out
    return (
        len(shape) == 2
        and leaf not in TIME_SCALES
        and "conv" not in name
        and "embedding" not in name
    )


def is_time_scale(name: str) -> bool:
    """Tell whether a parameter stays in fp32 while the others are cast to bf16."""
    return name.rpartition(".")[2] in TIME_SCALES


def build_optimizer(
    model: nn.Module,
    config: OptimizerConfig,
    *,
    is_fused: bool,
    n_elements_per_group: float = math.inf,
) -> torch.optim.AdamW:
    """Make AdamW over groups of three kinds: decayed, not decayed, time scales.

    Args:
        is_fused: One pass over weights, gradients and moments instead of some ten; for a GPU.
        n_elements_per_group: A kind is cut into groups, in the model's order, wherever one has
            this many elements.
    """
    kinds: tuple[list[Tensor], ...] = ([], [], [])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = 2 if is_time_scale(name) else 0 if is_decayed(name, parameter) else 1
            kinds[kind].append(parameter)
    decays = (config.weight_decay, 0.0, 0.0)
    return torch.optim.AdamW(
        [
            {"params": group, "weight_decay": decay}
            for kind, decay in zip(kinds, decays, strict=True)
            for group in cut(kind, n_elements_per_group)
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=is_fused,
    )


def cut(parameters: Iterable[Tensor], n_elements: float) -> Iterator[list[Tensor]]:
    """Put parameters together, in their order, until so many elements or more are in a group."""
    group: list[Tensor] = []
    for parameter in parameters:
        group.append(parameter)
        if sum(p.numel() for p in group) >= n_elements:
            yield group
            group = []
    if group:
        yield group
