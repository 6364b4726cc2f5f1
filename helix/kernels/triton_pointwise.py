"""Norms and gates on a GPU, each in one pass over memory forward and one backward.

Dims: N tokens, D width, G width of [gate | up], F half of it.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from helix.kernels.devices import require_cuda

require_cuda()

BLOCK_COLUMNS = 1024  # of the gates
ROWS_OF_PROGRAM = 64  # tokens whose weight gradients one program of the norm adds up


@triton.jit
@no_type_check
def _norm_forward(x, weight, y, scales, d, eps, D: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, D)
    inside = column < d
    values = tl.load(x + row * d + column, mask=inside, other=0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, axis=0) / d + eps)
    w = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    tl.store(y + row * d + column, (values * scale * w).to(y.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)


@triton.jit
@no_type_check
def _norm_backward(
    x, weight, scales, d_y, d_x, d_weights, n, d, ROWS: tl.constexpr, D: tl.constexpr
):
    column = tl.arange(0, D)
    inside = column < d
    w = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    d_weight = tl.zeros([D], tl.float32)
    first = tl.program_id(0).to(tl.int64) * ROWS
    for offset in range(ROWS):
        row = first + offset
        at, here = row * d + column, inside & (row < n)
        scale = tl.load(scales + row, mask=row < n, other=0)
        normal = tl.load(x + at, mask=here, other=0).to(tl.float32) * scale
        given = tl.load(d_y + at, mask=here, other=0).to(tl.float32)
        d_weight += given * normal
        pulled = given * w
        along = tl.sum(pulled * normal, axis=0) / d
        tl.store(d_x + at, ((pulled - normal * along) * scale).to(d_x.dtype.element_ty), mask=here)
    tl.store(d_weights + tl.program_id(0) * d + column, d_weight, mask=inside)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        flat = x.reshape(-1, x.shape[-1])
        n, d = flat.shape
        y = torch.empty_like(flat)
        scales = torch.empty(n, dtype=torch.float32, device=x.device)
        block = triton.next_power_of_2(d)
        _norm_forward[(n,)](flat, weight, y, scales, d, eps, D=block, num_warps=4)
        ctx.save_for_backward(flat, weight, scales)
        return y.view(x.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_y):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, scales = ctx.saved_tensors
        n, d = x.shape
        d_x = torch.empty_like(x)
        n_programs = triton.cdiv(n, ROWS_OF_PROGRAM)
        d_weights = torch.empty(n_programs, d, dtype=torch.float32, device=x.device)
        _norm_backward[(n_programs,)](
            x, weight, scales, d_y.contiguous(), d_x, d_weights, n, d,
            ROWS=ROWS_OF_PROGRAM, D=triton.next_power_of_2(d), num_warps=4,
        )  # fmt: skip
        return d_x.view(d_y.shape), d_weights.sum(0).to(weight.dtype), None


@triton.jit
@no_type_check
def _glu_forward(gate_up, y, f, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < f
    gate = tl.load(gate_up + row * 2 * f + column, mask=inside, other=0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * f + f + column, mask=inside, other=0).to(tl.float32)
    tl.store(y + row * f + column, (gate * tl.sigmoid(gate) * up).to(y.dtype.element_ty), inside)


@triton.jit
@no_type_check
def _glu_backward(gate_up, d_y, d_gate_up, f, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < f
    at = row * 2 * f + column
    gate = tl.load(gate_up + at, mask=inside, other=0).to(tl.float32)
    up = tl.load(gate_up + at + f, mask=inside, other=0).to(tl.float32)
    given = tl.load(d_y + row * f + column, mask=inside, other=0).to(tl.float32)
    share = tl.sigmoid(gate)
    d_gate = given * up * share * (1 + gate * (1 - share))
    tl.store(d_gate_up + at, d_gate.to(d_gate_up.dtype.element_ty), mask=inside)
    tl.store(d_gate_up + at + f, (given * gate * share).to(d_gate_up.dtype.element_ty), inside)


class _GLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up):
        flat = gate_up.reshape(-1, gate_up.shape[-1])
        n, f = flat.shape[0], flat.shape[1] // 2
        y = torch.empty(n, f, dtype=gate_up.dtype, device=gate_up.device)
        _glu_forward[(n, triton.cdiv(f, BLOCK_COLUMNS))](flat, y, f, BLOCK=BLOCK_COLUMNS)
        ctx.save_for_backward(flat)
        return y.view(*gate_up.shape[:-1], f)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_y):  # pyright: ignore[reportIncompatibleMethodOverride]
        (gate_up,) = ctx.saved_tensors
        n, f = gate_up.shape[0], gate_up.shape[1] // 2
        d_gate_up = torch.empty_like(gate_up)
        _glu_backward[(n, triton.cdiv(f, BLOCK_COLUMNS))](
            gate_up, d_y.contiguous(), d_gate_up, f, BLOCK=BLOCK_COLUMNS
        )
        return d_gate_up.view(*d_y.shape[:-1], 2 * f)


def rms_norm(
    x: Float[Tensor, "*N D"], weight: Float[Tensor, " D"], *, eps: float
) -> Float[Tensor, "*N D"]:
    """Compute pointwise.rms_norm."""
    return _RMSNorm.apply(x, weight, eps)


def glu(gate_up: Float[Tensor, "*N G"]) -> Float[Tensor, "*N F"]:
    """Compute pointwise.glu."""
    return _GLU.apply(gate_up)
