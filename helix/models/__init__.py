"""The families of language models, by the type of their config."""

from collections.abc import Callable

import torch
from torch import nn

from helix.models.base import LanguageModel, ModelConfig
from helix.models.hybrid import Hybrid, HybridConfig
from helix.models.initialize import initialize, materialise

FAMILIES: dict[str, tuple[type, type[LanguageModel]]] = {"hybrid": (HybridConfig, Hybrid)}


def family_of(config: ModelConfig) -> str:
    """Name the family that a config belongs to."""
    return next(name for name, (kind, _) in FAMILIES.items() if type(config) is kind)


def build_on_meta(config: ModelConfig) -> LanguageModel:
    """Build the module tree without allocating a weight."""
    with torch.device("meta"):
        return FAMILIES[family_of(config)][1](config)


def build_model(config: ModelConfig, *, seed: int, device: torch.device | str) -> LanguageModel:
    """Build a model and initialise its weights in float32, the same on every rank and device."""
    model = build_on_meta(config).to_empty(device=device)
    model.tie_weights()  # to_empty gave the head a tensor of its own
    initialize(model, seed=seed)
    return model


def build_shared_out(
    config: ModelConfig,
    settle: Callable[[nn.Parameter], None],
    *,
    seed: int,
    dtype: torch.dtype,
    is_drawn: bool,
) -> LanguageModel:
    """Build the model of `build_model`, each parameter of which is settled as soon as it is made.

    See helix.models.initialize.materialise.
    """
    model = build_on_meta(config)
    materialise(model, settle, seed=seed, dtype=dtype, is_drawn=is_drawn)
    return model
