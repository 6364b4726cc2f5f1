"""Norms on a GPU, each in one pass over memory forward and one backward.

A program takes a tile of rows at a time, as many as make TILE of their channels. Backward there are
as many programs as the GPU runs at once. Each walks over tiles that lie evenly apart and adds up
gradients of the weight for itself; these are then added over programs, always in one order.

Dims: N leading axes, R rows, D width.
"""

import math
from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from helix.kernels.devices import require_cuda

require_cuda()

TILE = 2048  # channels that a program takes at a time: wide rows one by one, heads many at once
TILE_OF_WARP = 512  # 16 channels a thread
PROCESSORS = 132  # of an H100 or H200; a constant, for the order of sums to be the same anywhere
WARPS_AT_ONCE = 24  # backward, of a processor, at the registers that this leaves to a thread:
REGISTERS = 80


class Rows(NamedTuple):
    """Rows that are contiguous by themselves, and where in memory they are.

    Attributes:
        n_inner: How many of them lie `inner_stride` units apart before the next lie `outer_stride`
            units on.
        unit: See unit_of.
    """

    tensor: Tensor
    n_inner: int
    outer_stride: int
    inner_stride: int
    unit: int


def unit_of(*strides: int) -> int:
    """Choose in what unit to tell strides to a kernel, which is compiled for the unit.

    Triton finds out by itself where strides are multiples of 16, and loads 16 bytes at a time only
    where it knows. Those of Mamba-2's projection may be multiples of 8: 5416 at a width of 1280.
    """
    return math.gcd(16, *strides)


def rows_of(x: Float[Tensor, "*N D"]) -> Rows:
    """Find the rows along the last axis: slices of a projection, and heads of them, in place."""
    *sizes, d = x.shape
    *strides, step = x.stride()
    if step == 1 and sizes and lie_evenly(sizes, strides):
        unit = unit_of(strides[-1])
        return Rows(x, 1, strides[-1] // unit, 0, unit)
    if step == 1 and len(sizes) > 1 and lie_evenly(sizes[:-1], strides[:-1]):
        unit = unit_of(*strides[-2:])
        return Rows(x, sizes[-1], strides[-2] // unit, strides[-1] // unit, unit)
    return Rows(x.contiguous(), 1, d, 0, 1)


def lie_evenly(sizes: list[int], strides: list[int]) -> bool:
    """Tell whether walking over all axes, the last one fastest, makes steps of one length."""
    outer = zip(sizes[:-1], strides[:-1], strict=True)
    inner = zip(sizes[1:], strides[1:], strict=True)
    return all(
        n == 1 or stride == n_inner * stride_inner
        for (n, stride), (n_inner, stride_inner) in zip(outer, inner, strict=True)
    )


def tile_of(d: int) -> dict[str, int]:
    """Choose a kernel's block sizes for rows of `d` channels."""
    width = triton.next_power_of_2(d)
    n_rows = max(1, TILE // width)
    n_warps = min(16, max(1, n_rows * width // TILE_OF_WARP))
    return {"ROWS": n_rows, "D": width, "num_warps": n_warps}


def count_programs(n: int, tile: dict[str, int], *, warps_at_once: int) -> int:
    """Count the programs that walk over `n` rows backward."""
    at_once = PROCESSORS * max(1, warps_at_once // tile["num_warps"])
    return min(at_once, triton.cdiv(n, tile["ROWS"]))


@triton.jit
@no_type_check
def at_rows(row, n_inner, outer_stride, inner_stride, UNIT: tl.constexpr):
    """Give the offset of each row: see Rows."""
    outer, inner = (row // n_inner).to(tl.int64), (row % n_inner).to(tl.int64)
    return ((outer * outer_stride + inner * inner_stride) * UNIT)[:, None]


@triton.jit
@no_type_check
def _norm_forward(
    x, added, weight, stream, y, scales, n, d,
    n_inner, outer_stride, inner_stride, UNIT: tl.constexpr, eps,
    HAS_ADDED: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, D)[None, :]
    inside = (row < n)[:, None] & (column < d)
    at = row.to(tl.int64)[:, None] * d + column
    source = x + at_rows(row, n_inner, outer_stride, inner_stride, UNIT) + column
    values = tl.load(source, mask=inside, other=0).to(tl.float32)
    if HAS_ADDED:
        values += tl.load(added + at, mask=inside, other=0).to(tl.float32)
        rounded = values.to(stream.dtype.element_ty)  # backward sees no more of it
        tl.store(stream + at, rounded, mask=inside)
        values = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=1) / d + eps)
    w = tl.load(weight + column, mask=column < d, other=0).to(tl.float32)
    tl.store(y + at, (values * scale[:, None] * w).to(y.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale, mask=row < n)


@triton.jit
@no_type_check
def _norm_backward(
    x, weight, scales, d_stream, d_y, d_x, d_weights, n, d,
    n_inner, outer_stride, inner_stride, UNIT: tl.constexpr,
    HAS_STREAM: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, D)[None, :]
    w = tl.load(weight + column, mask=column < d, other=0).to(tl.float32)
    d_weight = tl.zeros([ROWS, D], tl.float32)
    first = tl.program_id(0) * ROWS
    while first < n:
        row = first + tl.arange(0, ROWS)
        inside = (row < n)[:, None] & (column < d)
        at = row.to(tl.int64)[:, None] * d + column
        source = x + at_rows(row, n_inner, outer_stride, inner_stride, UNIT) + column
        scale = tl.load(scales + row, mask=row < n, other=0)[:, None]
        normal = tl.load(source, mask=inside, other=0).to(tl.float32) * scale
        given = tl.load(d_y + at, mask=inside, other=0).to(tl.float32)
        d_weight += given * normal
        pulled = given * w
        along = tl.sum(pulled * normal, axis=1)[:, None] / d
        total = (pulled - normal * along) * scale
        if HAS_STREAM:
            total += tl.load(d_stream + at, mask=inside, other=0).to(tl.float32)
        tl.store(d_x + at, total.to(d_x.dtype.element_ty), mask=inside)
        first += tl.num_programs(0) * ROWS
    at = tl.program_id(0).to(tl.int64) * d + tl.arange(0, D)
    tl.store(d_weights + at, tl.sum(d_weight, axis=0), mask=tl.arange(0, D) < d)


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, added, weight, eps):
        rows, *places = rows_of(x)
        d = x.shape[-1]
        n = x.numel() // d
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        stream = x if added is None else torch.empty_like(y)
        scales = torch.empty(n, dtype=torch.float32, device=x.device)
        tile = tile_of(d)
        _norm_forward[(triton.cdiv(n, tile["ROWS"]),)](
            rows, x if added is None else added.contiguous(), weight, stream, y, scales,
            n, d, *places, eps, HAS_ADDED=added is not None, **tile,
        )  # fmt: skip
        ctx.save_for_backward(stream, weight, scales)
        ctx.set_materialize_grads(False)
        return stream, y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_stream, d_y):  # pyright: ignore[reportIncompatibleMethodOverride]
        stream, weight, scales = ctx.saved_tensors
        was_added = ctx.needs_input_grad[1]
        if d_y is None:
            return d_stream, d_stream if was_added else None, None, None
        rows, *places = rows_of(stream)
        d = stream.shape[-1]
        n = stream.numel() // d
        d_y = d_y.contiguous()
        d_x = torch.empty_like(d_y)
        tile = tile_of(d)
        n_programs = count_programs(n, tile, warps_at_once=WARPS_AT_ONCE)
        d_weights = torch.empty(n_programs, d, dtype=torch.float32, device=d_x.device)
        _norm_backward[(n_programs,)](
            rows, weight, scales, d_y if d_stream is None else d_stream.contiguous(), d_y, d_x,
            d_weights, n, d, *places, HAS_STREAM=d_stream is not None, maxnreg=REGISTERS,
            **tile,
        )  # fmt: skip
        return d_x, d_x if was_added else None, d_weights.sum(0).to(weight.dtype), None


def rms_norm(
    x: Float[Tensor, "*N D"], weight: Float[Tensor, " D"], *, eps: float
) -> Float[Tensor, "*N D"]:
    """Compute pointwise.rms_norm."""
    return _ResidualNorm.apply(x, None, weight, eps)[1]


def residual_norm(
    x: Float[Tensor, "*N D"],
    added: Float[Tensor, "*N D"] | None,
    weight: Float[Tensor, " D"],
    *,
    eps: float,
) -> tuple[Float[Tensor, "*N D"], Float[Tensor, "*N D"]]:
    """Compute pointwise.residual_norm."""
    return _ResidualNorm.apply(x, added, weight, eps)
