"""Softmax attention with rotary positions over everything before in the document.

Dims: B batch, T time, D width of the model, P tokens so far, M key and value heads, K width of a
head.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor, nn

from helix import kernels
from helix.kernels.attention import AttentionMemory
from helix.mixers.base import Mixer, document_starts
from helix.mixers.heads import HeadsConfig, RotaryHeads, document_positions


class AttentionState(NamedTuple):
    """AttentionMemory and the last token's document: the one state that grows with time."""

    keys: Float[Tensor, "B P M K"]
    values: Float[Tensor, "B P M K"]
    position: Int64[Tensor, " B"]
    last_document: Int64[Tensor, " B"]


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(HeadsConfig):
    """Choose the heads; nothing else is to be chosen."""

    path: ClassVar[str] = "attention"

    backend: Literal["auto", "reference", "flex"] = "auto"

    def flops_per_token(self, d_model: int, n_context: int) -> int:
        """Count 2 per weight, and 4 H K for each of (n_context + 1) / 2 keys."""
        return self.flops_of(d_model, n_context * (n_context + 1) // 2, n_context)

    def state_bytes(self, d_model: int, n_context: int, *, bytes_per_value: int) -> int:
        """Size all keys and values, and two counters."""
        return n_context * self.bytes_per_key(d_model, bytes_per_value=bytes_per_value) + 2 * 8


class Attention(Mixer[AttentionState]):
    """Let each token hear all tokens before it in its document."""

    Config = AttentionConfig

    def __init__(self, config: AttentionConfig, d_model: int) -> None:
        super().__init__()
        config.check(d_model)
        self.heads = RotaryHeads(config, d_model)
        self.out_proj = nn.Linear(config.n_heads * self.heads.d_head, d_model, bias=False)
        self.attend = kernels.select("attention", config.backend)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        document_ids: Int64[Tensor, "B T"],
        state: AttentionState | None = None,
        *,
        is_continued: bool = True,
    ) -> tuple[Float[Tensor, "B T D"], AttentionState]:
        """See Mixer."""
        starts = document_starts(document_ids, state and state.last_document)
        positions = document_positions(starts, state and state.position)
        memory = state and AttentionMemory._make(state[:-1])
        y, memory = self.attend(*self.heads(x, positions), positions, memory)
        return self.out_proj(y.flatten(2)), AttentionState._make((*memory, document_ids[:, -1]))
