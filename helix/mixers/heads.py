"""Heads: what full and sparse attention share, from widths to rotated queries and keys.

Dims: B batch, T time, D width of the model, H query heads, M key and value heads, K width of a
head.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from helix.kernels.parts import split
from helix.layers import RMSNorm, Rotary
from helix.mixers.base import check_at_least, check_divides


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """Choose the heads of a layer of softmax attention.

    Attributes:
        n_kv_heads: Heads of keys and values, each serving n_heads / n_kv_heads heads of queries;
            None means n_heads.
        d_head: None means d_model / n_heads.
        rotary_theta: Base of the rotary wavelengths.
        qk_norm: Whether each head's queries and keys are normalised.
    """

    path: ClassVar[str]  # of the config, in error messages

    n_heads: int = 4
    n_kv_heads: int | None = None
    d_head: int | None = None
    rotary_theta: float = 1e4  # Su et al. 2021, arXiv:2104.09864, section 3.3
    qk_norm: bool = False

    def __post_init__(self) -> None:
        check_at_least(f"{self.path}.n_heads", self.n_heads, 1)
        if self.n_kv_heads is not None:
            check_at_least(f"{self.path}.n_kv_heads", self.n_kv_heads, 1)
            check_divides(
                f"{self.path}.n_kv_heads", self.n_kv_heads, what="n_heads", total=self.n_heads
            )
        if self.d_head is not None and (self.d_head < 2 or self.d_head % 2):
            raise ValueError(f"{self.path}.d_head={self.d_head}: rotary pairs need an even width")
        if self.rotary_theta <= 1:
            raise ValueError(f"{self.path}.rotary_theta={self.rotary_theta}: give more than 1")

    def check(self, d_model: int) -> None:
        """Refuse widths that do not divide."""
        if self.d_head is None:
            check_divides(f"{self.path}.n_heads", self.n_heads, what="d_model", total=d_model)
            if self.d_head_of(d_model) % 2:
                raise ValueError(
                    f"{self.path}.n_heads={self.n_heads}: d_model / n_heads = "
                    f"{self.d_head_of(d_model)}, but rotary pairs need an even width"
                )

    def n_kv(self) -> int:
        """Count the heads of keys, which are also those of values."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    def d_head_of(self, d_model: int) -> int:
        """Give the width of a head."""
        return d_model // self.n_heads if self.d_head is None else self.d_head

    def n_parameters(self, d_model: int) -> int:
        """Count the parameters of one mixer: d (2 H + 2 M) K, and 2 K with qk_norm."""
        d_head = self.d_head_of(d_model)
        norms = 2 * d_head if self.qk_norm else 0
        return d_model * 2 * (self.n_heads + self.n_kv()) * d_head + norms

    def flops_of(self, d_model: int, n_heard: int, n_context: int) -> int:
        """Count 2 per weight and token, and 4 H K per key heard, of which a row has `n_heard`."""
        d_head = self.d_head_of(d_model)
        projections = 2 * d_model * 2 * (self.n_heads + self.n_kv()) * d_head
        return projections + 4 * self.n_heads * d_head * n_heard // n_context

    def bytes_per_key(self, d_model: int, *, bytes_per_value: int) -> int:
        """Size the key and the value of one token."""
        return 2 * self.n_kv() * self.d_head_of(d_model) * bytes_per_value


class RotaryHeads(nn.Module):
    """Project to queries, keys and values, and turn the first two by their position."""

    def __init__(self, config: HeadsConfig, d_model: int) -> None:
        super().__init__()
        self.n_heads, self.n_kv = config.n_heads, config.n_kv()
        self.d_head = config.d_head_of(d_model)
        self.in_proj = nn.Linear(d_model, (self.n_heads + 2 * self.n_kv) * self.d_head, bias=False)
        self.q_norm = RMSNorm(self.d_head) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.d_head) if config.qk_norm else nn.Identity()
        self.rotary = Rotary(self.d_head, theta=config.rotary_theta)

    def forward(
        self, x: Float[Tensor, "B T D"], positions: Int64[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T H K"], Float[Tensor, "B T M K"], Float[Tensor, "B T M K"]]:
        """Give queries, keys and values."""
        widths = (n * self.d_head for n in (self.n_heads, self.n_kv, self.n_kv))
        parts = split(self.in_proj(x), tuple(widths))
        q, k, v = (part.unflatten(-1, (-1, self.d_head)) for part in parts)
        q, k = self.rotary(self.q_norm(q), self.k_norm(k), positions)
        return q, k, v


def document_positions(
    starts: Bool[Tensor, "B T"], last_position: Int64[Tensor, " B"] | None
) -> Int64[Tensor, "B T"]:
    """Count each token's position in its document from 0.

    Args:
        last_position: Of the token before the first; None means there was none.
    """
    index = torch.arange(starts.shape[1], device=starts.device)
    before = index.new_zeros(()) if last_position is None else -1 - last_position[:, None]
    return index - torch.where(starts, index, before).cummax(dim=1).values
