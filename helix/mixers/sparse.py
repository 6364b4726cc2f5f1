"""Softmax attention with rotary positions over a window and the first tokens of the document.

Dims: B batch, T time, D width of the model, F n_global, W window_tokens - 1, M key and value
heads, K width of a head.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor, nn

from helix import kernels
from helix.kernels.sparse import SparseMemory
from helix.mixers.base import Mixer, check_at_least, document_starts
from helix.mixers.heads import HeadsConfig, RotaryHeads, document_positions


class SparseState(NamedTuple):
    """SparseMemory and the last token's document."""

    first_keys: Float[Tensor, "B F M K"]
    first_values: Float[Tensor, "B F M K"]
    recent_keys: Float[Tensor, "B W M K"]
    recent_values: Float[Tensor, "B W M K"]
    position: Int64[Tensor, " B"]
    last_document: Int64[Tensor, " B"]


@dataclass(frozen=True, kw_only=True)
class SparseConfig(HeadsConfig):
    """Choose the heads, and what they hear.

    Attributes:
        window_tokens: How many tokens are heard, the present one included.
        n_global: How many first tokens of the document are heard from anywhere in it.
    """

    path: ClassVar[str] = "sparse"

    window_tokens: int = 1024
    n_global: int = 32
    backend: Literal["auto", "reference", "triton", "flex"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("sparse.window_tokens", self.window_tokens, 1)
        check_at_least("sparse.n_global", self.n_global, 0)

    def flops_per_token(self, d_model: int, n_context: int) -> int:
        """Count 2 per weight, and 4 H K per key heard.

        The token at position p hears min(p + 1, W) keys of the window of W tokens, and of the
        first tokens those behind it, min(max(p + 1 - W, 0), n_global).
        """
        n_near = _sum_of_minima(n_context, self.window_tokens)
        n_far = _sum_of_minima(max(0, n_context - self.window_tokens), self.n_global)
        return self.flops_of(d_model, n_near + n_far, n_context)

    def state_bytes(self, d_model: int, n_context: int, *, bytes_per_value: int) -> int:
        """Size n_global + window_tokens - 1 keys and values, and two counters."""
        n_keys = self.n_global + self.window_tokens - 1
        return n_keys * self.bytes_per_key(d_model, bytes_per_value=bytes_per_value) + 2 * 8


class SparseAttention(Mixer[SparseState]):
    """Let each token hear a window before it and the first tokens of its document."""

    Config = SparseConfig

    def __init__(self, config: SparseConfig, d_model: int) -> None:
        super().__init__()
        config.check(d_model)
        self.heads = RotaryHeads(config, d_model)
        self.out_proj = nn.Linear(config.n_heads * self.heads.d_head, d_model, bias=False)
        self.attend = partial(
            kernels.select("sparse", config.backend),
            window_tokens=config.window_tokens,
            n_global=config.n_global,
        )

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        document_ids: Int64[Tensor, "B T"],
        state: SparseState | None = None,
        *,
        is_continued: bool = True,
    ) -> tuple[Float[Tensor, "B T D"], SparseState]:
        """See Mixer."""
        starts = document_starts(document_ids, state and state.last_document)
        positions = document_positions(starts, state and state.position)
        memory = state and SparseMemory._make(state[:-1])
        heads = self.heads(x, positions)
        y, memory = self.attend(*heads, positions, memory, is_continued=is_continued)
        return self.out_proj(y.flatten(2)), SparseState._make((*memory, document_ids[:, -1]))


def _sum_of_minima(n: int, limit: int) -> int:
    """Sum min(m, limit) over m = 1 ... n."""
    low = min(n, limit)
    return low * (low + 1) // 2 + (n - low) * limit
