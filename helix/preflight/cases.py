"""Small inputs for each kernel that a run takes, at the widths of the run's own heads.

Dims: B rows, T tokens, H heads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from helix.kernels import attention, conv, cross_entropy, gla, pointwise, sparse, ssd
from helix.models import HybridConfig

N_ROWS, N_TOKENS, N_HEADS = 2, 100, 2
MAX_WIDTH, MAX_VOCABULARY = 256, 992  # of what is no head; multiples of 16
EPS = 1e-6

Call = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call of a kernel.

    Attributes:
        rounded: What a run hands over in its own precision.
        exact: What it hands over in float32, with gradients.
        fixed: What has no gradient.
        call: Calls a backend with all of these, in this order, and gives a tensor or several.
        truth: The same by our reference, in float32 on the CPU.
        is_fp8: The kernel rounds to 8 bits.
    """

    kernel: str
    backend: str
    rounded: list[Tensor]
    exact: list[Tensor]
    fixed: list[Tensor]
    call: Call
    truth: Call
    is_fp8: bool = False


def cases_of(model: HybridConfig, seed: int) -> list[Case]:
    """Draw the calls that the run's pattern makes."""
    draw = Drawer(seed)
    makers = {
        "mamba2": [ssd_case, conv_case, gated_norm_case],
        "gla": [gla_case, log_decay_case, gated_norm_case],
        "sparse": [sparse_case, rotary_case],
        "attention": [attention_case, rotary_case],
    }
    chosen = [norm_case, residual_norm_case, glu_case, loss_case]
    for kind in model.kinds():
        chosen += makers.get(kind, [])
    chosen += [make for part, make in FP8.items() if part in model.fp8.split()]
    return [make(model, draw) for make in dict.fromkeys(chosen)]


class Drawer:
    """Draws the same numbers on every machine."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        """Draw from a normal distribution."""
        return torch.randn(shape, generator=self.generator)

    def starts(self) -> Tensor:
        """Begin documents at the first token of a row and elsewhere."""
        starts = torch.rand(N_ROWS, N_TOKENS, generator=self.generator) < 0.03
        starts[:, 0] = True
        return starts

    def positions(self) -> Tensor:
        """Count positions in documents."""
        index = torch.arange(N_TOKENS).expand(N_ROWS, -1)
        return index - torch.where(self.starts(), index, 0).cummax(dim=1).values


def ssd_case(model: HybridConfig, draw: Drawer) -> Case:
    """Call Mamba-2's scan."""
    config = model.mamba2
    n_heads, bt = N_HEADS * config.n_groups, (N_ROWS, N_TOKENS)
    x = draw(*bt, n_heads, config.d_head)
    b, c = (draw(*bt, config.n_groups, config.d_state) for _ in range(2))
    # The gradient of the rates cancels to nearly nothing, so they have none here.
    a, skip = -draw(n_heads).exp(), draw(n_heads)
    return Case(
        kernel="ssd",
        backend=config.backend,
        rounded=[x, b, c],
        exact=[F.softplus(draw(*bt, n_heads) - 3)],
        fixed=[a, skip, draw.starts()],
        call=lambda f, x, b, c, dt, a, skip, starts: f(x, dt, a, b, c, skip, starts),
        truth=ssd.ssd_reference,
    )


def conv_case(model: HybridConfig, draw: Drawer) -> Case:
    """Call Mamba-2's convolution."""
    config = model.mamba2
    n_channels = min(config.n_channels(model.d_model), MAX_WIDTH)
    weights = [draw(n_channels, config.d_conv), draw(n_channels)]
    return Case(
        kernel="conv",
        backend="reference" if config.backend == "reference" else "auto",
        rounded=[draw(N_ROWS, N_TOKENS, n_channels), *weights],
        exact=[],
        fixed=[draw.starts()],
        call=lambda f, x, w, b, starts: f(x, w, b, starts, silu=True)[0],
        truth=conv.causal_conv_reference,
    )


def gla_case(model: HybridConfig, draw: Drawer) -> Case:
    """Call the scan of gated linear attention."""
    config, d_model, bth = model.gla, model.d_model, (N_ROWS, N_TOKENS, N_HEADS)
    d_key, d_value = (d // config.n_heads for d in (config.d_key(d_model), config.d_value(d_model)))
    return Case(
        kernel="gla",
        backend=config.backend,
        rounded=[draw(*bth, d_key), draw(*bth, d_key), draw(*bth, d_value)],
        exact=[F.logsigmoid(draw(*bth, d_key)) / config.decay_temperature],
        fixed=[draw.starts()],
        call=lambda f, *inputs: f(*inputs),
        truth=gla.gla_reference,
    )


def log_decay_case(model: HybridConfig, draw: Drawer) -> Case:
    """Call what makes the decay of gated linear attention."""
    temperature = model.gla.decay_temperature
    return Case(
        kernel="log_decay",
        backend="auto",
        rounded=[draw(N_ROWS, N_TOKENS, min(model.gla.d_key(model.d_model), MAX_WIDTH))],
        exact=[],
        fixed=[],
        call=lambda f, x: f(x, temperature=temperature),
        truth=pointwise.log_decay,
    )


def sparse_case(model: HybridConfig, draw: Drawer) -> Case:
    """Call attention to a window and the first tokens."""
    config = model.sparse
    window_tokens, n_global = min(config.window_tokens, 32), min(config.n_global, 4)

    def call(f: Call, *inputs: Tensor) -> Tensor:
        heard = f(*inputs, window_tokens=window_tokens, n_global=n_global)
        return heard if isinstance(heard, Tensor) else heard[0]  # the truth keeps no memory

    return Case(
        kernel="sparse",
        backend=config.backend,
        rounded=heads(config.n_heads // config.n_kv(), config.d_head_of(model.d_model), draw),
        exact=[],
        fixed=[draw.positions()],
        call=call,
        truth=sparse.sparse_reference,
    )


def attention_case(model: HybridConfig, draw: Drawer) -> Case:
    """Call attention to all of the document."""
    config = model.attention
    return Case(
        kernel="attention",
        backend=config.backend,
        rounded=heads(config.n_heads // config.n_kv(), config.d_head_of(model.d_model), draw),
        exact=[],
        fixed=[draw.positions()],
        call=lambda f, *inputs: f(*inputs)[0],
        truth=attention.attention_reference,
    )


def heads(n_repeats: int, d_head: int, draw: Drawer) -> list[Tensor]:
    """Draw queries, keys and values, so many queries' heads to a key's."""
    counts = (N_HEADS * n_repeats, N_HEADS, N_HEADS)
    return [draw(N_ROWS, N_TOKENS, count, d_head) for count in counts]


def rotary_case(model: HybridConfig, draw: Drawer) -> Case:
    """Call the rotation by positions."""
    kind = "sparse" if "sparse" in model.kinds() else "attention"
    d_head = getattr(model, kind).d_head_of(model.d_model)
    angle = draw(N_ROWS, N_TOKENS, d_head // 2) * 100
    return Case(
        kernel="rotary",
        backend="auto",
        rounded=[draw(N_ROWS, N_TOKENS, N_HEADS, d_head)],
        exact=[],
        fixed=[angle.cos(), angle.sin()],
        call=lambda f, *inputs: f(*inputs),
        truth=pointwise.rotary,
    )


def norm_case(model: HybridConfig, draw: Drawer) -> Case:
    """Call the norm."""
    return Case(
        kernel="rms_norm",
        backend="auto",
        rounded=[draw(N_ROWS, N_TOKENS, model.d_model), 1 + draw(model.d_model) / 4],
        exact=[],
        fixed=[],
        call=lambda f, *inputs: f(*inputs, eps=EPS),
        truth=pointwise.rms_norm,
    )


def residual_norm_case(model: HybridConfig, draw: Drawer) -> Case:
    """Call the norm of the stream and what a block adds to it."""
    x, added = (draw(N_ROWS, N_TOKENS, model.d_model) for _ in range(2))
    return Case(
        kernel="residual_norm",
        backend="auto",
        rounded=[x, added, 1 + draw(model.d_model) / 4],
        exact=[],
        fixed=[],
        call=lambda f, *inputs: f(*inputs, eps=EPS),
        truth=pointwise.residual_norm,
    )


def gated_norm_case(model: HybridConfig, draw: Drawer) -> Case:
    """Call the gated norm, both ways round."""
    width = min(model.d_model, MAX_WIDTH)
    x, gate = (draw(N_ROWS, N_TOKENS, N_HEADS, width) for _ in range(2))
    return Case(
        kernel="gated_norm",
        backend="auto",
        rounded=[x, gate, 1 + draw(width) / 4],
        exact=[],
        fixed=[],
        call=lambda f, *inputs: tuple(
            f(*inputs, eps=EPS, gate_first=gate_first) for gate_first in (True, False)
        ),
        truth=pointwise.gated_norm,
    )


def glu_case(model: HybridConfig, draw: Drawer) -> Case:
    """Call the gate of the MLP."""
    return Case(
        kernel="glu",
        backend="auto",
        rounded=[draw(N_ROWS, N_TOKENS, 2 * model.d_ffn)],
        exact=[],
        fixed=[],
        call=lambda f, *inputs: f(*inputs),
        truth=pointwise.glu,
    )


def loss_case(model: HybridConfig, draw: Drawer, *, is_fp8: bool = False) -> Case:
    """Call the loss."""
    d_model, n_vocab = min(model.d_model, MAX_WIDTH), min(model.n_vocab, MAX_VOCABULARY)
    targets = torch.randint(n_vocab, (N_TOKENS,), generator=draw.generator)
    targets[:3] = -100
    return Case(
        kernel="cross_entropy_fp8" if is_fp8 else "cross_entropy",
        backend="auto" if is_fp8 else model.loss_backend,
        rounded=[draw(N_TOKENS, d_model), draw(n_vocab, d_model) / d_model**0.5],
        exact=[],
        fixed=[targets],
        call=lambda f, hidden, weight, targets: f(hidden, weight, targets, chunk_rows=64),
        truth=lambda *inputs, chunk_rows: cross_entropy.cross_entropy_reference(*inputs),
        is_fp8=is_fp8,
    )


def fp8_loss_case(model: HybridConfig, draw: Drawer) -> Case:
    """Call the loss with products of 8 bits."""
    return loss_case(model, draw, is_fp8=True)


def fp8_mlp_case(model: HybridConfig, draw: Drawer) -> Case:
    """Call the MLP with products of 8 bits."""
    d_model, d_ffn = min(model.d_model, MAX_WIDTH), min(model.d_ffn, MAX_WIDTH)
    gate_up, down = draw(2 * d_ffn, d_model) / d_model**0.5, draw(d_model, d_ffn) / d_ffn**0.5
    return Case(
        kernel="swiglu_fp8",
        backend="auto",
        rounded=[draw(N_ROWS, N_TOKENS, d_model), gate_up, down],
        exact=[],
        fixed=[],
        call=lambda f, *inputs: f(*inputs),
        truth=lambda x, gate_up, down: pointwise.glu(x @ gate_up.T) @ down.T,
        is_fp8=True,
    )


FP8 = {"mlp": fp8_mlp_case, "head": fp8_loss_case}
