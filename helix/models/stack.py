"""Stack: a readable pattern of mixers becomes residual blocks; every family is built of it.

    x <- x + mixer(norm x)        x <- x + mlp(norm x)

Dims: B batch, T time, D width of the model.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import (
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from helix.kernels.fp8 import check_width
from helix.layers import ResidualNorm, RMSNorm, SwiGLU
from helix.mixers import MIXERS
from helix.mixers.attention import AttentionConfig
from helix.mixers.base import MixerConfig, State
from helix.mixers.gla import GLAConfig
from helix.mixers.mamba2 import Mamba2Config
from helix.mixers.sparse import SparseConfig

Recompute = Literal["none", "selective", "full"]

# What selective recomputation keeps: the results of products, which are dear to compute again.
# Norms, gates and other passes over memory are run once more.
KEPT = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten._scaled_mm.default,
)


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Widths, the pattern of mixers, and one config for each kind of mixer.

    Attributes:
        pattern: Kinds of mixer from the bottom to the top, each with an optional count:
            "mamba2*6 gla*16 sparse*6". An alternation is written out: "gla*3 sparse gla*3 sparse".
        recompute: Which activations the backward pass computes again instead of keeping:
            none of them, those of a block that are no results of products, or all of a block.
        recompute_every: Of how many blocks one is recomputed, counted from the bottom among
            those of `recompute_kinds`.
        recompute_kinds: Which kinds of mixer's blocks are recomputed, with blanks between them;
            empty means all.
        fp8: Whose products are of 8 bits in training, with blanks between them: mlp, head.
    """

    d_model: int = 192
    d_ffn: int = 512
    pattern: str = "mamba2 gla*2 sparse"
    recompute: Recompute = "none"
    recompute_every: int = 1
    recompute_kinds: str = ""
    fp8: str = ""
    mamba2: Mamba2Config = field(default_factory=Mamba2Config)
    gla: GLAConfig = field(default_factory=GLAConfig)
    sparse: SparseConfig = field(default_factory=SparseConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)

    def __post_init__(self) -> None:
        for name in ("d_model", "d_ffn"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)}: give a positive width")
        self._check_recompute(self.kinds())
        self._check_fp8()

    def _check_recompute(self, kinds: tuple[str, ...]) -> None:
        if self.recompute not in get_args(Recompute):
            raise ValueError(
                f"model.recompute={self.recompute!r}: give one of {', '.join(get_args(Recompute))}"
            )
        if self.recompute_every < 1:
            raise ValueError(f"model.recompute_every={self.recompute_every}: give at least 1")
        for kind in self.recompute_kinds.split():
            if kind not in kinds:
                raise ValueError(
                    f"model.recompute_kinds={self.recompute_kinds!r}: {kind!r} is not in "
                    f"model.pattern={self.pattern!r}"
                )
        if self.recompute == "none" and (self.recompute_every > 1 or self.recompute_kinds):
            raise ValueError(
                "model.recompute=none: recompute_every and recompute_kinds have no effect with it; "
                "set model.recompute=selective or full"
            )

    def _check_fp8(self) -> None:
        for part in self.fp8.split():
            if part not in ("mlp", "head"):
                raise ValueError(f"model.fp8={self.fp8!r}: {part!r} is neither mlp nor head")
        if self.fp8:
            check_width("model.d_model", self.d_model)
        if "mlp" in self.fp8.split():
            check_width("model.d_ffn", self.d_ffn)

    def kinds(self) -> tuple[str, ...]:
        """Write the pattern out: one kind of mixer for each block, from the bottom up."""
        kinds: list[str] = []
        for word in self.pattern.split():
            match = re.fullmatch(r"(\w+?)(?:\*([1-9]\d{0,2}))?", word)
            if match is None or match[1] not in MIXERS:
                raise ValueError(
                    f"model.pattern={self.pattern!r}: {word!r} is not a mixer; write kinds of "
                    f"{', '.join(MIXERS)} with a count up to 999, as in 'mamba2*6 gla*16 sparse*6'"
                )
            kinds += [match[1]] * int(match[2] or 1)
        if not kinds:
            raise ValueError("model.pattern='': give at least one mixer, as in 'gla*4'")
        return tuple(kinds)

    def recomputed(self) -> tuple[bool, ...]:
        """Tell for each block, from the bottom up, whether its activations are computed again."""
        kinds = self.kinds()
        chosen = self.recompute_kinds.split() or kinds
        layers = [layer for layer, kind in enumerate(kinds) if kind in chosen]
        recomputed = [] if self.recompute == "none" else layers[:: self.recompute_every]
        return tuple(layer in recomputed for layer in range(len(kinds)))

    def mixer(self, kind: str) -> MixerConfig:
        """Give the config of one kind of mixer."""
        return getattr(self, kind)

    def check(self, n_context: int) -> None:
        """Refuse widths that do not divide and a context that the chunked scans cannot split."""
        for kind in dict.fromkeys(self.kinds()):
            config = self.mixer(kind)
            config.check(self.d_model)
            chunk = getattr(config, "chunk_tokens", 1)
            if n_context % chunk:
                raise ValueError(
                    f"data.n_context={n_context}: must be a multiple of {kind}.chunk_tokens="
                    f"{chunk}; the nearest: {', '.join(map(str, _neighbours(n_context, chunk)))}"
                )

    def parameters_by_part(self) -> dict[str, int]:
        """Count parameters of each mixer kind, the MLPs and the norms."""
        counts = Counter(self.kinds())
        parts = {k: n * self.mixer(k).n_parameters(self.d_model) for k, n in counts.items()}
        n_layers = counts.total()
        return {
            **parts,
            "mlp": n_layers * 3 * self.d_model * self.d_ffn,
            "norm": (2 * n_layers + 1) * self.d_model,
        }

    def flops_by_part(self, n_context: int) -> dict[str, int]:
        """Count forward FLOPs per token: two for each multiply-add; norms are left out."""
        counts = Counter(self.kinds())
        parts = {
            k: n * self.mixer(k).flops_per_token(self.d_model, n_context) for k, n in counts.items()
        }
        return {**parts, "mlp": counts.total() * 6 * self.d_model * self.d_ffn}

    def state_bytes(self, n_context: int, *, bytes_per_value: int) -> int:
        """Size the decoding state of one sequence after `n_context` tokens."""
        return sum(
            self.mixer(kind).state_bytes(self.d_model, n_context, bytes_per_value=bytes_per_value)
            for kind in self.kinds()
        )


def _neighbours(value: int, divisor: int) -> list[int]:
    """Give the multiples of a divisor, above 0, between which a value lies."""
    below = value // divisor * divisor
    return [multiple for multiple in (below, below + divisor) if multiple > 0]


keep_products = partial(create_selective_checkpoint_contexts, list(KEPT))


class Block(nn.Module):
    """One mixer and one MLP, each behind a norm and added to the stream."""

    def __init__(self, kind: str, config: StackConfig) -> None:
        super().__init__()
        self.mixer_norm = ResidualNorm(config.d_model)
        self.mixer = MIXERS[kind](config.mixer(kind), config.d_model)
        self.mlp_norm = ResidualNorm(config.d_model)
        self.mlp = SwiGLU(config.d_model, config.d_ffn, is_fp8="mlp" in config.fp8.split())

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        document_ids: Int64[Tensor, "B T"],
        state: State | None = None,
        *,
        is_continued: bool = True,
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """Add what the mixer and the MLP make of the stream; see Mixer.forward."""
        x, normed = self.mixer_norm(x)
        mixed, left = self.mixer(normed, document_ids, state, is_continued=is_continued)
        x, normed = self.mlp_norm(x, mixed)
        return x + self.mlp(normed), left


class Stack(nn.Module):
    """The blocks of a pattern and a last norm."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(kind, config) for kind in config.kinds())
        self.norm = RMSNorm(config.d_model)
        self.recomputed = config.recomputed()
        keeps_products = config.recompute == "selective"
        self.contexts = keep_products if keeps_products else noop_context_fn

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        document_ids: Int64[Tensor, "B T"],
        states: tuple[State, ...] | None = None,
        *,
        is_continued: bool = True,
    ) -> tuple[Float[Tensor, "B T D"], tuple[State, ...]]:
        """Run all blocks; states in and out are one a block, from the bottom up.

        Args:
            is_continued: Whether the states are read; else none is given.
        """
        left: list[State] = []
        for layer, block in enumerate(self.blocks):
            state = None if states is None else states[layer]
            if self.recomputed[layer] and torch.is_grad_enabled():
                run = partial(checkpoint, block, use_reentrant=False, context_fn=self.contexts)
            else:
                run = block
            x, state = run(x, document_ids, state, is_continued=is_continued)
            if is_continued:  # else it would hold a recomputed block's activations
                left.append(state)
        return self.norm(x), tuple(left)
