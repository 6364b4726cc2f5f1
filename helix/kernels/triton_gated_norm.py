"""Norms with a gate before or behind them on a GPU, in one pass forward and one backward.

Dims: N leading axes, D width.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from helix.kernels.devices import require_cuda
from helix.kernels.parts import make_room, room_of
from helix.kernels.triton_gates import sigmoid
from helix.kernels.triton_norm import at_rows, count_programs, rows_of, tile_of

require_cuda()

WARPS_AT_ONCE = 16  # backward, of a processor, at the registers that this leaves to a thread:
REGISTERS = 128


@triton.jit
@no_type_check
def _forward(
    x, gate, weight, y, scales, n, d,
    n_inner, outer_stride, inner_stride, UNIT: tl.constexpr,
    n_inner_gates, outer_gates, inner_gates, UNIT_GATES: tl.constexpr, eps,
    GATE_FIRST: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, D)[None, :]
    inside = (row < n)[:, None] & (column < d)
    of_x = x + at_rows(row, n_inner, outer_stride, inner_stride, UNIT) + column
    of_gate = gate + at_rows(row, n_inner_gates, outer_gates, inner_gates, UNIT_GATES) + column
    values = tl.load(of_x, mask=inside, other=0).to(tl.float32)
    g = tl.load(of_gate, mask=inside, other=0).to(tl.float32)
    opened = g * sigmoid(g)
    if GATE_FIRST:
        values *= opened
    scale = tl.rsqrt(tl.sum(values * values, axis=1) / d + eps)
    w = tl.load(weight + column, mask=column < d, other=0).to(tl.float32)
    total = values * scale[:, None] * w
    if not GATE_FIRST:
        total *= opened
    at = row.to(tl.int64)[:, None] * d + column
    tl.store(y + at, total.to(y.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale, mask=row < n)


@triton.jit
@no_type_check
def _backward(
    x, gate, weight, scales, d_y, d_x, d_gate, d_weights, n, d,
    n_inner, outer_stride, inner_stride, UNIT: tl.constexpr,
    n_inner_gates, outer_gates, inner_gates, UNIT_GATES: tl.constexpr,
    n_inner_room, outer_room, inner_room, UNIT_ROOM: tl.constexpr,
    GATE_FIRST: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, D)[None, :]
    w = tl.load(weight + column, mask=column < d, other=0).to(tl.float32)
    d_weight = tl.zeros([ROWS, D], tl.float32)
    first = tl.program_id(0) * ROWS
    while first < n:
        row = first + tl.arange(0, ROWS)
        inside = (row < n)[:, None] & (column < d)
        at = row.to(tl.int64)[:, None] * d + column
        of_x = x + at_rows(row, n_inner, outer_stride, inner_stride, UNIT) + column
        of_gate = gate + at_rows(row, n_inner_gates, outer_gates, inner_gates, UNIT_GATES) + column
        scale = tl.load(scales + row, mask=row < n, other=0)[:, None]
        values = tl.load(of_x, mask=inside, other=0).to(tl.float32)
        g = tl.load(of_gate, mask=inside, other=0).to(tl.float32)
        given = tl.load(d_y + at, mask=inside, other=0).to(tl.float32)
        share = sigmoid(g)
        opened = g * share
        # the gate multiplies what goes into the norm, or what the norm's output is given
        before = opened if GATE_FIRST else 1.0
        behind = 1.0 if GATE_FIRST else opened
        normal = values * before * scale
        d_weight += given * behind * normal
        pulled = given * behind * w
        along = tl.sum(pulled * normal, axis=1)[:, None] / d
        total = (pulled - normal * along) * scale
        d_opened = total * values if GATE_FIRST else given * normal * w
        d_g = d_opened * (share + opened * (1 - share))
        tl.store(d_x + at, (total * before).to(d_x.dtype.element_ty), mask=inside)
        room = d_gate + at_rows(row, n_inner_room, outer_room, inner_room, UNIT_ROOM) + column
        tl.store(room, d_g.to(d_gate.dtype.element_ty), mask=inside)
        first += tl.num_programs(0) * ROWS
    at = tl.program_id(0).to(tl.int64) * d + tl.arange(0, D)
    tl.store(d_weights + at, tl.sum(d_weight, axis=0), mask=tl.arange(0, D) < d)


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gate, weight, eps, gate_first):
        rows, *places = rows_of(x)
        gates, *gate_places = rows_of(gate)
        d = x.shape[-1]
        n = x.numel() // d
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        scales = torch.empty(n, dtype=torch.float32, device=x.device)
        tile = tile_of(d)
        _forward[(triton.cdiv(n, tile["ROWS"]),)](
            rows, gates, weight, y, scales, n, d, *places, *gate_places, eps,
            GATE_FIRST=gate_first, **tile,
        )  # fmt: skip
        ctx.save_for_backward(x, gate, weight, scales)
        ctx.room = room_of(gate)
        ctx.gate_first = gate_first
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_y):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, gate, weight, scales = ctx.saved_tensors
        rows, *places = rows_of(x)
        gates, *gate_places = rows_of(gate)
        d = x.shape[-1]
        n = x.numel() // d
        d_y = d_y.contiguous()
        d_x, d_gate = torch.empty_like(d_y), make_room(ctx.room, gate)
        room, *room_places = rows_of(d_gate)
        tile = tile_of(d)
        n_programs = count_programs(n, tile, warps_at_once=WARPS_AT_ONCE)
        d_weights = torch.empty(n_programs, d, dtype=torch.float32, device=x.device)
        _backward[(n_programs,)](
            rows, gates, weight, scales, d_y, d_x, room, d_weights, n, d,
            *places, *gate_places, *room_places,
            GATE_FIRST=ctx.gate_first, maxnreg=REGISTERS, **tile,
        )  # fmt: skip
        return d_x, d_gate, d_weights.sum(0).to(weight.dtype), None, None


def gated_norm(
    x: Float[Tensor, "*N D"],
    gate: Float[Tensor, "*N D"],
    weight: Float[Tensor, " D"],
    *,
    eps: float,
    gate_first: bool,
) -> Float[Tensor, "*N D"]:
    """Compute pointwise.gated_norm."""
    return _GatedNorm.apply(x, gate, weight, eps, gate_first)
