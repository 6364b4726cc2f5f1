"""Gated linear attention: a layer whose memory of keys and values decays per key channel.

    g_t = logsigmoid(W_up W_down x_t + b) / temperature        (o_t, S_t) = gla(q, k, v, g)
    y_t = W_out (RMSNorm_head(o_t) * silu(W_gate x_t))

Dims: B batch, T time, D width of the model, H heads, K key width, V value width of a head.
Source: Yang et al. 2023, arXiv:2312.06635, section 4.4.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from helix import kernels
from helix.kernels.parts import split
from helix.layers import GatedNorm
from helix.mixers.base import Mixer, check_at_least, check_divides, document_starts

ROUNDING = 1e-9  # of a width: 2.01 x 1000 is 2009.9999999999998


class GLAState(NamedTuple):
    """What a layer of gated linear attention carries on."""

    memory: Float32[Tensor, "B H K V"]
    last_document: Int64[Tensor, " B"]


@dataclass(frozen=True, kw_only=True)
class GLAConfig:
    """Choose the widths and the decay of gated linear attention.

    Attributes:
        key_ratio: Width of all keys over d_model.
        value_ratio: Width of all values over d_model.
        decay_rank: Rank of the map from x to the decay; None means full.
        decay_temperature: Divides the log decay: higher remembers longer.
        chunk_tokens: Chunk of the reference backend, a power of two; changes the speed alone.
    """

    n_heads: int = 4
    key_ratio: float = 0.5  # Yang et al., section 4.4, as are the rank and the temperature
    value_ratio: float = 1.0
    decay_rank: int | None = 16
    decay_temperature: float = 16.0
    chunk_tokens: int = 64
    backend: Literal["auto", "reference", "triton", "fla"] = "auto"

    def __post_init__(self) -> None:
        check_at_least("gla.n_heads", self.n_heads, 1)
        for name in ("key_ratio", "value_ratio", "decay_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"gla.{name}={getattr(self, name)}: give more than 0")
        if self.decay_rank is not None:
            check_at_least("gla.decay_rank", self.decay_rank, 1)
        if self.chunk_tokens < 1 or self.chunk_tokens & (self.chunk_tokens - 1):
            raise ValueError(f"gla.chunk_tokens={self.chunk_tokens}: give a power of two")

    def check(self, d_model: int) -> None:
        """Refuse widths that do not divide."""
        for name in ("key_ratio", "value_ratio"):
            ratio = getattr(self, name)
            width = round(ratio * d_model)
            if abs(ratio * d_model - width) > ROUNDING * width:
                raise ValueError(
                    f"gla.{name}={ratio}: times d_model = {d_model} must be a whole number"
                )
            check_divides("gla.n_heads", self.n_heads, what=f"{name} * d_model", total=width)

    def d_key(self, d_model: int) -> int:
        """Give the width of the keys of all heads."""
        return round(self.key_ratio * d_model)

    def d_value(self, d_model: int) -> int:
        """Give the width of the values of all heads."""
        return round(self.value_ratio * d_model)

    def n_parameters(self, d_model: int) -> int:
        """Count the weights of the projections, the decay's bias and one head's norm."""
        d_key, d_value = self.d_key(d_model), self.d_value(d_model)
        return self._n_projection_weights(d_model) + d_key + d_value // self.n_heads

    def flops_per_token(self, d_model: int, n_context: int) -> int:
        """Count 2 per weight, and 6 H K V: each cell of the state decays, learns and is read."""
        recurrence = 6 * self.d_key(d_model) * self.d_value(d_model) // self.n_heads
        return 2 * self._n_projection_weights(d_model) + recurrence

    def state_bytes(self, d_model: int, n_context: int, *, bytes_per_value: int) -> int:
        """Size H K V floats and a counter."""
        return 4 * self.d_key(d_model) * self.d_value(d_model) // self.n_heads + 8

    def _n_projection_weights(self, d_model: int) -> int:
        d_key, d_value, rank = self.d_key(d_model), self.d_value(d_model), self.decay_rank
        decay = d_model * d_key if rank is None else (d_model + d_key) * rank
        return d_model * (2 * d_key + 3 * d_value) + decay


class GatedLinearAttention(Mixer[GLAState]):
    """Write k v^T into a matrix, read it with q, let each of its rows decay by itself."""

    Config = GLAConfig

    def __init__(self, config: GLAConfig, d_model: int) -> None:
        super().__init__()
        config.check(d_model)
        d_key, d_value, rank = config.d_key(d_model), config.d_value(d_model), config.decay_rank
        self.n_heads = config.n_heads
        self.widths = (d_key, d_key, d_value, d_value)
        self.in_proj = nn.Linear(d_model, sum(self.widths), bias=False)  # [q | k | v | gate]
        self.decay_down = nn.Identity() if rank is None else nn.Linear(d_model, rank, bias=False)
        self.decay_up = nn.Linear(d_model if rank is None else rank, d_key)
        self.log_decay = partial(
            kernels.select("log_decay", "auto"), temperature=config.decay_temperature
        )
        self.norm = GatedNorm(d_value // config.n_heads, gate_first=False)
        self.out_proj = nn.Linear(d_value, d_model, bias=False)
        self.scan = partial(kernels.select("gla", config.backend), chunk_tokens=config.chunk_tokens)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        document_ids: Int64[Tensor, "B T"],
        state: GLAState | None = None,
        *,
        is_continued: bool = True,
    ) -> tuple[Float[Tensor, "B T D"], GLAState]:
        """See Mixer."""
        starts = document_starts(document_ids, state and state.last_document)
        q, k, v, gate = split(self.in_proj(x), self.widths)
        # As rows of a matrix: to a batch of them DeepSpeed's linear map of stage 3 adds the bias in
        # place, upon a product that selective recomputation has kept, and so once more backward.
        decay = self.decay_up(self.decay_down(x).flatten(0, 1)).unflatten(0, x.shape[:2])
        log_decay = self.log_decay(decay)
        q, k, v, log_decay, gate = (
            z.unflatten(-1, (self.n_heads, -1)) for z in (q, k, v, log_decay, gate)
        )
        y, memory = self.scan(q, k, v, log_decay, starts, state and state.memory)
        y = self.out_proj(self.norm(y, gate).flatten(2))
        return y, GLAState(memory, document_ids[:, -1])
