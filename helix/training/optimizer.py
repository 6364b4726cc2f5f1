"""AdamW and the rule that says which parameters decay."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

UNDECAYED_LEAVES = ("A_log", "dt_bias", "D")  # they set time scales, which decay would lengthen


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
        if self.learning_rate <= 0 or self.eps <= 0:
            raise ValueError(
                f"optimizer.learning_rate={self.learning_rate}, optimizer.eps={self.eps}: "
                "give values above 0"
            )
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: give a value in [0, 1)")
        if self.weight_decay < 0:
            raise ValueError(f"optimizer.weight_decay={self.weight_decay}: give 0 or more")


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Tell whether weight decay applies: to the matrices of linear maps and to nothing else.

    Norms, biases, convolution filters, SSM parameters and the tied embedding do not decay: a
    row of the embedding that is rarely seen would shrink to nothing (OLMo 2, arXiv:2501.00656).
    """
    leaf = name.rpartition(".")[2]
    return (
        parameter.ndim == 2
        and leaf not in UNDECAYED_LEAVES
        and "conv" not in name
        and "embedding" not in name
    )


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Make AdamW over two groups, decayed and not, each in the model's order.

    On a GPU it is fused: one pass over weights, gradients and moments instead of some ten.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for name, p in named if is_decayed(name, p) is decayed],
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for decayed in (True, False)
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=all(parameter.is_cuda for _, parameter in named) or None,
    )
