"""Floats of 8 bits: how a matrix is scaled and rounded to them, and how two such are multiplied.

    x ~ values * inverse        inverse = 2^(e - top), e the exponent of the largest |x|

Scales are powers of two, so that scaling is exact, and come from the matrix itself, or from a
bound on it: nothing is remembered from step to step, and a resumed run goes on to the bit. A
product sums over the last axis of both sides, which is how tensor cores of Hopper read 8 bits:
most matrices are therefore kept twice, as they are and transposed.

Dims: N tokens or rows, D columns, M rows of the other side, G width of [gate | up], F half of it,
V vocabulary.
Source: Micikevicius et al. 2022, arXiv:2209.05433 (both formats).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

WIDTH_MULTIPLE = 16  # bytes that a row of an operand must be a multiple of
SMALLEST_FIELD = 15  # below 2^-112 a scale would leave the range of float32
GLU_SLOPE = 1.1  # above the largest slope of silu, 1.0998


class Format(NamedTuple):
    """A kind of 8-bit float.

    Attributes:
        top: Exponent that scaling gives to the largest magnitude: one below the format's own, as
            its last binade ends early.
    """

    dtype: torch.dtype
    top: int


E4M3 = Format(torch.float8_e4m3fn, 7)  # 3 bits behind the point, 2^-9 to 448
E5M2 = Format(torch.float8_e5m2, 14)  # 2 bits behind the point, 2^-16 to 57344


class Operand(NamedTuple):
    """One side of a product: values * inverse, with the axis that is summed over last."""

    values: Float[Tensor, "N D"]
    inverse: Float[Tensor, "_ 1"]  # one for all rows, or one for each


class Both(NamedTuple):
    """A matrix as it is and transposed; transposed rows are filled up with zeros."""

    rows: Operand
    columns: Operand


class Gated(NamedTuple):
    """What a gate gave, each row with a scale of its own, and the largest magnitudes of it all.

    Attributes:
        largest: Of the result, and of gate and up.
    """

    rows: Operand
    largest: Float[Tensor, " 2"]


class Primitives(NamedTuple):
    """The passes over memory and the product; this module's are the truth for those of a GPU.

    Attributes:
        values: Format of activations and weights.
        gradients: Format of what flows back: its range matters more than its digits.
    """

    values: Format
    gradients: Format
    quantise: Callable[[Tensor, Format], Both]
    glu: Callable[[Tensor, Format], Gated]
    glu_gradient: Callable[[Tensor, Tensor, Tensor, Format, Format], tuple[Both, Operand]]
    softmax_gradient: Callable[..., tuple[Tensor, Operand]]
    scaled: Callable[[Tensor, Tensor, torch.dtype], Tensor]
    product: Callable[[Operand, Operand, torch.dtype], Tensor]


def check_width(path: str, width: int) -> None:
    """Refuse a width that 8-bit products cannot read.

    Args:
        path: The config path that set the width.

    Raises:
        ValueError: The width is no multiple of 16; choose one that is, or products of 16 bits.
    """
    if width % WIDTH_MULTIPLE:
        below = width // WIDTH_MULTIPLE * WIDTH_MULTIPLE
        raise ValueError(
            f"{path}={width}: 8-bit products need a multiple of {WIDTH_MULTIPLE}; the nearest: "
            f"{', '.join(str(x) for x in (below, below + WIDTH_MULTIPLE) if x)}"
        )


def scales(
    largest: Float[Tensor, "*shape"], top: int
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Give the power of two that lifts a magnitude into [2^top, 2^(top + 1)), and its inverse.

    The inverse of what is not finite is NaN, so that it shows in every product.
    """
    field = largest.view(torch.int32) >> 23  # the exponent, 127 above its value
    field = field.clamp(min=SMALLEST_FIELD)
    scale = ((254 + top - field) << 23).view(torch.float32)
    inverse = ((field - top) << 23).view(torch.float32)
    return scale, torch.where(field == 255, torch.nan, inverse)


def quantise(x: Float[Tensor, "N D"], kind: Format) -> Both:
    """Round a matrix under one scale."""
    scale, inverse = scales(_largest(x), kind.top)
    return _both(x.float() * scale, inverse, kind)


def glu(gate_up: Float[Tensor, "N G"], kind: Format) -> Gated:
    """Compute pointwise.glu and round each row under a scale of its own."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    y = F.silu(gate) * up
    by_row = y.abs().amax(dim=1, keepdim=True)
    scale, inverse = scales(by_row, kind.top)
    rows = Operand((y * scale).to(kind.dtype), inverse)
    return Gated(rows, torch.stack((by_row.amax(), _largest(gate_up))))


def glu_gradient(
    gate_up: Float[Tensor, "N G"],
    d_y: Float[Tensor, "N F"],
    largest: Float[Tensor, " 2"],
    values: Format,
    gradients: Format,
) -> tuple[Both, Operand]:
    """Differentiate pointwise.glu: the gradient both ways, and the result itself, transposed.

    The gradient's scale comes from a bound, so that it need not be computed twice: no entry
    exceeds the slope of silu times the largest of `d_y` times that of gate and up.

    Args:
        largest: What `glu` found.
    """
    gate, up = gate_up.float().chunk(2, dim=-1)
    share = torch.sigmoid(gate)
    d_gate = d_y.float() * up * share * (1 + gate * (1 - share))
    d_up = d_y.float() * gate * share
    bound = GLU_SLOPE * _largest(d_y) * largest[1]
    scale, inverse = scales(bound, gradients.top)
    d_gate_up = _both(torch.cat((d_gate, d_up), dim=1) * scale, inverse, gradients)
    y_scale, y_inverse = scales(largest[0], values.top)
    return d_gate_up, _both(gate * share * up * y_scale, y_inverse, values).columns


def softmax_gradient(
    logits: Float[Tensor, "N V"],
    targets: Int64[Tensor, " N"],
    columns: Float[Tensor, "V _"],
    kind: Format,
    *,
    ignored: int,
) -> tuple[Float[Tensor, " N"], Operand]:
    """Give each token's loss in nats and the gradient of their sum; leave that transposed too.

    No entry of softmax - one_hot exceeds 1: its scale is known beforehand.

    Args:
        columns: Its first N are overwritten by the transposed gradient, under the same scale.
    """
    is_target = (targets != ignored)[:, None]
    at = targets[:, None].clamp(min=0).where(is_target, 0)
    log_total = logits.float().logsumexp(dim=1, keepdim=True)
    losses = (log_total - logits.float().gather(1, at)) * is_target
    gradient = (logits.float() - log_total).exp().scatter_add_(1, at, -torch.ones_like(log_total))
    scale, inverse = scales(torch.ones(1, 1, device=logits.device), kind.top)
    rows = (gradient * is_target * scale).to(kind.dtype)
    columns[:, : len(rows)] = rows.T
    return losses[:, 0], Operand(rows, inverse)


def scaled(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply by a factor that lies on the device."""
    return (x * factor).to(dtype)


def product(a: Operand, b: Operand, dtype: torch.dtype) -> Float[Tensor, "N M"]:
    """Multiply a by the transpose of b, exactly but for the rounding of the result."""
    left, right = (side.values.float() * side.inverse for side in (a, b))
    return (left @ right.T).to(dtype)


def padded(n: int) -> int:
    """Give the length of a transposed row of n tokens."""
    return n + -n % WIDTH_MULTIPLE


def empty_transposed(n: int, d: int, kind: Format, device: torch.device) -> Tensor:
    """Make room for n tokens transposed; what fills a row up is zero and adds nothing."""
    make = torch.empty if n == padded(n) else torch.zeros
    return make(d, padded(n), dtype=kind.dtype, device=device)


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax().float() if x.numel() else x.new_zeros((), dtype=torch.float32)


def _both(lifted: Tensor, inverse: Tensor, kind: Format) -> Both:
    rows = lifted.to(kind.dtype)
    n, d = rows.shape
    columns = empty_transposed(n, d, kind, rows.device)
    columns[:, :n] = rows.T
    return Both(Operand(rows, inverse.view(1, 1)), Operand(columns, inverse.view(1, 1)))


REFERENCE = Primitives(E4M3, E5M2, quantise, glu, glu_gradient, softmax_gradient, scaled, product)
