"""The same hybrid from library layers, as a user would otherwise put it together.

GatedLinearAttention, Mamba2, RMSNorm, GatedMLP, RotaryEmbedding and FusedLinearCrossEntropyLoss are
flash-linear-attention's, Mamba-2's scan is mamba_ssm's, attention is PyTorch's FlexAttention, since
no library layer has a window beside first tokens. Documents are not isolated: Mamba2 cannot.

The layers are found by name when they are asked for, because `import mamba_ssm` fails without a
compiled extension that its Triton kernels do not need.

Dims: B rows, T tokens, D width of the model, H query heads, M key and value heads, K width of a
head.
Source: flash-linear-attention 0.6.0, fla/layers, fla/modules, fla/models/gla; mamba_ssm 2.3.2.
"""

import contextlib
import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from helix.batch import Batch
from helix.config import ConfigError
from helix.mixers.gla import GLAConfig
from helix.mixers.heads import HeadsConfig
from helix.mixers.mamba2 import Mamba2Config
from helix.mixers.sparse import SparseConfig
from helix.models.hybrid import HybridConfig

EPS = 1e-6  # of our norms
CHUNK_TOKENS = 128  # of mamba_ssm's scan: the faster of 128 and 256 (helix/kernels/mamba_ops.py)


class Layers(NamedTuple):
    """The libraries' modules that hold the layers."""

    gla: Any
    mamba2: Any
    modules: Any


def refuse_missing() -> None:
    """Refuse to go on where the libraries cannot run."""
    if not torch.cuda.is_available():
        raise ConfigError("library: the libraries' kernels need a CUDA device")
    for package, name in (
        ("fla", "flash-linear-attention"),
        ("mamba_ssm", "mamba-ssm"),
        ("transformers", "transformers"),  # fla.layers imports it
    ):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"library: {name} is not installed (README, On a GPU)")


@functools.cache
def load_layers() -> Layers:
    """Import the layers and shorten their autotuning, as our own adapters do."""
    with hollow("mamba_ssm"):
        gla = importlib.import_module("fla.layers.gla")
        mamba2 = importlib.import_module("fla.layers.mamba2")
        if mamba2.mamba_chunk_scan_combined is None:  # imported before, when mamba_ssm could not be
            mamba2 = importlib.reload(mamba2)
    layers = Layers(gla, mamba2, importlib.import_module("fla.modules"))
    shorten = importlib.import_module("helix.kernels.autotune").shorten  # imports Triton
    for package in ("fla", "mamba_ssm"):
        shorten(package)
    return layers


@contextlib.contextmanager
def hollow(name: str) -> Iterator[None]:
    """Let a package's modules be imported while its own __init__ is not run."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = types.ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    whole = sys.modules.pop(name, None)
    sys.modules[name] = package
    try:
        yield
    finally:
        del sys.modules[name]
        if whole is not None:
            sys.modules[name] = whole


class LibraryModel(nn.Module):
    """Embedding, blocks as fla/models/gla has them, tied head and fused loss."""

    def __init__(self, config: HybridConfig, *, is_ffn_compiled: bool) -> None:
        super().__init__()
        modules = load_layers().modules
        self.embedding = nn.Embedding(config.n_vocab, config.d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(
            LibraryBlock(kind, config, is_ffn_compiled=is_ffn_compiled) for kind in config.kinds()
        )
        self.norm = modules.RMSNorm(config.d_model, eps=EPS)
        # Summing the weight's gradient in bf16 is four times as fast as in float32.
        self.loss = modules.FusedLinearCrossEntropyLoss(accumulate_grad_in_fp32=False)

    def forward(self, batch: Batch) -> Tensor:
        """Give the mean loss over a batch in nats."""
        x = self.embedding(batch.tokens)
        for block in self.blocks:
            x = block(x)
        return self.loss(self.norm(x), batch.targets, self.embedding.weight)


class LibraryBlock(nn.Module):
    """Norm, mixer, norm and MLP; the second norm adds the mixer's output to the stream."""

    def __init__(self, kind: str, config: HybridConfig, *, is_ffn_compiled: bool) -> None:
        super().__init__()
        modules = load_layers().modules
        self.mixer_norm = modules.RMSNorm(config.d_model, eps=EPS)
        self.mixer = build_mixer(kind, config)
        self.mlp_norm = modules.RMSNorm(config.d_model, eps=EPS)
        mlp = modules.GatedMLP(config.d_model, intermediate_size=config.d_ffn)
        self.mlp = CompiledMLP(mlp) if is_ffn_compiled else mlp

    def forward(self, x: Tensor) -> Tensor:
        """Add what the mixer and the MLP make of the stream."""
        mixed = self.mixer(self.mixer_norm(x))
        y, x = self.mlp_norm(mixed, x, True)
        return x + self.mlp(y)


class CompiledMLP(nn.Module):
    """A GatedMLP's weights in plain PyTorch under torch.compile."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each token alone."""
        gate, up, down = self.mlp.gate_proj, self.mlp.up_proj, self.mlp.down_proj
        return compiled_swiglu()(x, gate.weight, up.weight, down.weight)


@functools.cache
def compiled_swiglu() -> Any:
    """Compile one SwiGLU for all layers, which differ in nothing but their weights."""
    return torch.compile(
        lambda x, gate, up, down: F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down),
        dynamic=False,
    )


class FirstOutput(nn.Module):
    """A layer that gives a cache beside its output, without the cache."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Give the output alone."""
        return self.layer(x)[0]


def build_mixer(kind: str, config: HybridConfig) -> nn.Module:
    """Build the library's layer for one kind of mixer."""
    if kind == "gla":
        return FirstOutput(build_gla(config.gla, config.d_model))
    if kind == "mamba2":
        return FirstOutput(build_mamba2(config.mamba2, config.d_model))
    heads = config.sparse if kind == "sparse" else config.attention
    return FlexAttention(heads, config.d_model)


def build_gla(config: GLAConfig, d_model: int) -> nn.Module:
    """Build FLA's layer with our widths."""
    if config.decay_rank is None:
        raise ConfigError("library: gla.decay_rank=None: FLA's layer has low-rank decays only")
    return load_layers().gla.GatedLinearAttention(
        mode="chunk",
        hidden_size=d_model,
        expand_k=config.key_ratio,
        expand_v=config.value_ratio,
        num_heads=config.n_heads,
        gate_low_rank_dim=config.decay_rank,
        gate_logit_normalizer=config.decay_temperature,
        norm_eps=EPS,
    )


def build_mamba2(config: Mamba2Config, d_model: int) -> nn.Module:
    """Build FLA's layer with our widths.

    It is left in evaluation mode, which changes nothing but the way: in training mode it calls a
    fused kernel that needs causal-conv1d's compiled part.
    """
    layer = load_layers().mamba2.Mamba2(
        num_heads=config.n_heads(d_model),
        head_dim=config.d_head,
        hidden_size=d_model,
        state_size=config.d_state,
        expand=config.expand,
        n_groups=config.n_groups,
        conv_kernel=config.d_conv,
        norm_eps=EPS,
        chunk_size=CHUNK_TOKENS,
        backend="triton",
    )
    return layer.eval()


class FlexAttention(nn.Module):
    """FLA's rotary embedding and PyTorch's FlexAttention, with a window and first tokens."""

    def __init__(self, config: HeadsConfig, d_model: int) -> None:
        super().__init__()
        modules = load_layers().modules
        self.config = config
        self.d_head = config.d_head_of(d_model)
        self.widths = (config.n_heads, config.n_kv(), config.n_kv())
        self.in_proj = nn.Linear(d_model, sum(self.widths) * self.d_head, bias=False)
        self.rotary = modules.RotaryEmbedding(self.d_head, base=config.rotary_theta)
        norms = [modules.RMSNorm(self.d_head, eps=EPS) for _ in range(2)] if config.qk_norm else []
        self.norms = nn.ModuleList(norms or [nn.Identity(), nn.Identity()])
        self.out_proj = nn.Linear(config.n_heads * self.d_head, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend from each token of a row to those before it."""
        q, k, v = self.in_proj(x).unflatten(-1, (-1, self.d_head)).split(self.widths, dim=2)
        q, k = self.rotary(self.norms[0](q), self.norms[1](k))
        mask = block_mask(self.config, x.shape[1], x.device)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))  # (B, H, T, K)
        is_grouped = q.shape[1] != k.shape[1]
        y = compiled_attention()(q, k, v, block_mask=mask, enable_gqa=is_grouped)
        return self.out_proj(y.transpose(1, 2).flatten(2))


@functools.cache
def compiled_attention() -> Any:
    """Compile FlexAttention once."""
    return torch.compile(flex_attention, dynamic=False)


@functools.cache
def block_mask(config: HeadsConfig, n_tokens: int, device: torch.device) -> BlockMask:
    """Find the blocks to attend to, once for all layers and steps."""
    window, n_global = n_tokens, 0
    if isinstance(config, SparseConfig):
        window, n_global = config.window_tokens, config.n_global

    def is_heard(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i >= j) & ((i - j < window) | (j < n_global))

    return create_block_mask(is_heard, None, None, n_tokens, n_tokens, device=device)
