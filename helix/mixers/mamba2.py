"""Mamba-2: a state space layer whose decay, input and output depend on the token.

    [z | xBC | r] = W_in u        [x | B | C] = silu(conv(xBC))        dt = softplus(r + dt_bias)
    y = ssd(x, -exp(A_log) dt, dt, B, C) + D x        out = W_out RMSNorm(y * silu(z))

Dims: B batch, T time, D width of the model, H heads, P width of a head, N width of the state,
C channels and W taps of the convolution.
Source: Dao and Gu 2024, arXiv:2405.21060, section 7; mamba_ssm/modules/mamba2.py.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from helix import kernels
from helix.kernels.chunks import scan_dtype
from helix.kernels.parts import split
from helix.layers import GatedNorm
from helix.mixers.base import Mixer, check_at_least, check_divides, document_starts


class Mamba2State(NamedTuple):
    """What a Mamba-2 layer carries on."""

    memory: Float32[Tensor, "B H P N"]
    tail: Float[Tensor, "B W-1 C"]
    last_document: Int64[Tensor, " B"]


@dataclass(frozen=True, kw_only=True)
class Mamba2Config:
    """Choose the widths of a Mamba-2 layer.

    Attributes:
        d_state: Width of a head's state, beside d_head.
        expand: Inner width over d_model.
        n_groups: Groups of heads that share B and C.
        d_conv: Taps of the convolution.
        chunk_tokens: Chunk of the reference backend, a power of two; changes the speed alone.
    """

    d_state: int = 128
    d_head: int = 64
    expand: int = 2
    n_groups: int = 1
    d_conv: int = 4
    chunk_tokens: int = 64
    backend: Literal["auto", "reference", "triton", "mamba_ssm"] = "auto"  # of the scan

    def __post_init__(self) -> None:
        for name in ("d_state", "d_head", "expand", "n_groups", "d_conv", "chunk_tokens"):
            check_at_least(f"mamba2.{name}", getattr(self, name), 1)
        if self.chunk_tokens & (self.chunk_tokens - 1):
            raise ValueError(f"mamba2.chunk_tokens={self.chunk_tokens}: give a power of two")

    def check(self, d_model: int) -> None:
        """Refuse widths that do not divide."""
        d_inner = self.d_inner(d_model)
        check_divides("mamba2.d_head", self.d_head, what="expand * d_model", total=d_inner)
        n_heads = self.n_heads(d_model)
        what = "expand * d_model / d_head"
        check_divides("mamba2.n_groups", self.n_groups, what=what, total=n_heads)

    def d_inner(self, d_model: int) -> int:
        """Give the width of x and z."""
        return self.expand * d_model

    def n_heads(self, d_model: int) -> int:
        """Count the heads."""
        return self.d_inner(d_model) // self.d_head

    def n_channels(self, d_model: int) -> int:
        """Count the channels of the convolution: x, B and C."""
        return self.d_inner(d_model) + 2 * self.n_groups * self.d_state

    def n_parameters(self, d_model: int) -> int:
        """Count the weights: projections, convolution and its bias, A_log, D and dt_bias, norm."""
        convolution = self.n_channels(d_model) * (self.d_conv + 1)
        return (
            self._n_projection_weights(d_model)
            + convolution
            + 3 * self.n_heads(d_model)
            + self.d_inner(d_model)
        )

    def flops_per_token(self, d_model: int, n_context: int) -> int:
        """Count 2 per weight, and 6 H P N: each cell of the state decays, learns and is read."""
        convolution = 2 * self.n_channels(d_model) * self.d_conv
        recurrence = 6 * self.d_inner(d_model) * self.d_state
        return 2 * self._n_projection_weights(d_model) + convolution + recurrence

    def state_bytes(self, d_model: int, n_context: int, *, bytes_per_value: int) -> int:
        """Size H P N floats, the convolution's tail and a counter."""
        tail = (self.d_conv - 1) * self.n_channels(d_model) * bytes_per_value
        return 4 * self.d_inner(d_model) * self.d_state + tail + 8

    def _n_projection_weights(self, d_model: int) -> int:
        d_inner = self.d_inner(d_model)
        d_in_proj = d_inner + self.n_channels(d_model) + self.n_heads(d_model)
        return d_model * d_in_proj + d_inner * d_model


class CausalConv(nn.Module):
    """The convolution's weights; a module so that whoever shards parameters sees them used."""

    def __init__(self, n_channels: int, n_taps: int, *, backend: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_channels, n_taps))
        self.bias = nn.Parameter(torch.empty(n_channels))
        self.convolve = kernels.select("conv", backend)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        starts: Bool[Tensor, "B T"],
        tail: Float[Tensor, "B L C"] | None,
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B L C"]]:
        """Convolve within documents, with the tail of the tokens before, and apply silu."""
        return self.convolve(x, self.weight, self.bias, starts, tail, silu=True)


class Mamba2(Mixer[Mamba2State]):
    """Let a matrix state per head decay, learn and be read as each token asks."""

    Config = Mamba2Config

    def __init__(self, config: Mamba2Config, d_model: int) -> None:
        super().__init__()
        config.check(d_model)
        d_inner, n_heads = config.d_inner(d_model), config.n_heads(d_model)
        n_channels = config.n_channels(d_model)
        d_groups = config.n_groups * config.d_state
        self.n_groups, self.d_head = config.n_groups, config.d_head
        self.in_widths = (d_inner, n_channels, n_heads)  # [z | x B C | dt]
        self.channel_widths = (d_inner, d_groups, d_groups)  # [x | B | C]
        self.in_proj = nn.Linear(d_model, sum(self.in_widths), bias=False)
        conv_backend = "reference" if config.backend == "reference" else "auto"
        self.conv = CausalConv(n_channels, config.d_conv, backend=conv_backend)
        self.A_log = nn.Parameter(torch.empty(n_heads))
        self.dt_bias = nn.Parameter(torch.empty(n_heads))
        self.D = nn.Parameter(torch.empty(n_heads))
        self.norm = GatedNorm(d_inner, gate_first=True)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self.scan = partial(kernels.select("ssd", config.backend), chunk_tokens=config.chunk_tokens)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        document_ids: Int64[Tensor, "B T"],
        state: Mamba2State | None = None,
        *,
        is_continued: bool = True,
    ) -> tuple[Float[Tensor, "B T D"], Mamba2State]:
        """See Mixer."""
        starts = document_starts(document_ids, state and state.last_document)
        z, channels, dt = split(self.in_proj(x), self.in_widths)
        channels, tail = self.conv(channels, starts, state and state.tail)
        u, b, c = split(channels, self.channel_widths)
        u = u.unflatten(-1, (-1, self.d_head))
        b, c = (y.unflatten(-1, (self.n_groups, -1)) for y in (b, c))
        dtype = scan_dtype(x)
        dt = F.softplus(dt.to(dtype) + self.dt_bias.to(dtype))
        a = -self.A_log.to(dtype).exp()
        skip = self.D.to(dtype)
        y, memory = self.scan(u, dt, a, b, c, skip, starts, state and state.memory)
        y = self.out_proj(self.norm(y.flatten(2), z))
        return y, Mamba2State(memory, tail, document_ids[:, -1])
