"""Small mixers of every kind, with weights at which everything matters."""

import torch
from torch import Tensor

from helix.mixers import MIXERS, AttentionConfig, GLAConfig, Mamba2Config, Mixer, SparseConfig

D_MODEL = 16

CASES = {
    "mamba2": Mamba2Config(d_state=8, d_head=8, n_groups=2, chunk_tokens=8),
    "mamba2-two-taps": Mamba2Config(d_state=4, d_head=16, d_conv=2, chunk_tokens=64),
    "gla": GLAConfig(n_heads=2, decay_rank=4, chunk_tokens=8),
    "gla-full-rank": GLAConfig(n_heads=1, key_ratio=1.0, value_ratio=2.0, decay_rank=None),
    "sparse": SparseConfig(n_heads=4, n_kv_heads=2, window_tokens=5, n_global=2),
    "sparse-window-alone": SparseConfig(n_heads=2, window_tokens=4, n_global=0, qk_norm=True),
    "sparse-one-token": SparseConfig(n_heads=2, window_tokens=1, n_global=3),
    "attention": AttentionConfig(n_heads=4, n_kv_heads=1),
    "attention-normed": AttentionConfig(n_heads=2, d_head=6, qk_norm=True),
}


def kind_of(case: str) -> str:
    return case.split("-")[0]


def build(case: str, *, seed: int = 0) -> Mixer:
    mixer = MIXERS[kind_of(case)](CASES[case], D_MODEL)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in mixer.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        width = parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else 2
        parameter.data = noise / width + float(name.endswith("norm.weight"))
    return mixer


def draw_row(n_tokens: int, *, n_rows: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_rows, n_tokens, D_MODEL, generator=generator)


def documents(*lengths: int) -> Tensor:
    """Number the tokens of one row by document."""
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
