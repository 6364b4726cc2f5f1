"""Gates and decays on a GPU, each in one pass over memory forward and one backward.

Dims: N leading axes, G width of [gate | up], F half of it.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from helix.kernels.devices import require_cuda

require_cuda()

BLOCK = 1024  # numbers of a program


@triton.jit
@no_type_check
def sigmoid(x):
    """Divide 1 by 1 + exp(-x), in a third of the instructions of tl.sigmoid.

    It squares an inverse root, for which there is one instruction; a division takes eight.
    """
    root = tl.rsqrt(1 + tl.exp2(-1.4426950408889634 * x))
    return root * root


@triton.jit
@no_type_check
def _glu_forward(gate_up, y, f, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < f
    gate = tl.load(gate_up + row * 2 * f + column, mask=inside, other=0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * f + f + column, mask=inside, other=0).to(tl.float32)
    tl.store(y + row * f + column, (gate * sigmoid(gate) * up).to(y.dtype.element_ty), inside)


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
    share = sigmoid(gate)
    d_gate = given * up * share * (1 + gate * (1 - share))
    tl.store(d_gate_up + at, d_gate.to(d_gate_up.dtype.element_ty), mask=inside)
    tl.store(d_gate_up + at + f, (given * gate * share).to(d_gate_up.dtype.element_ty), inside)


class _GLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up):
        flat = gate_up.reshape(-1, gate_up.shape[-1])
        n, f = flat.shape[0], flat.shape[1] // 2
        y = torch.empty(n, f, dtype=gate_up.dtype, device=gate_up.device)
        _glu_forward[(n, triton.cdiv(f, BLOCK))](flat, y, f, BLOCK=BLOCK)
        ctx.save_for_backward(flat)
        return y.view(*gate_up.shape[:-1], f)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_y):  # pyright: ignore[reportIncompatibleMethodOverride]
        (gate_up,) = ctx.saved_tensors
        n, f = gate_up.shape[0], gate_up.shape[1] // 2
        d_gate_up = torch.empty_like(gate_up)
        _glu_backward[(n, triton.cdiv(f, BLOCK))](
            gate_up, d_y.contiguous(), d_gate_up, f, BLOCK=BLOCK
        )
        return d_gate_up.view(*d_y.shape[:-1], 2 * f)


@triton.jit
@no_type_check
def _log1p_of_share(z):
    """Give log(1 + z) for z in [0, 1] as 2 artanh(z / (2 + z)), whose digits last where z ends.

    tl.log(1 + z) loses those of a small z: they are what a decay that forgets little is made of.
    """
    s = z / (2 + z)
    q = s * s  # 1/9 at most: the first term left out is below 1e-8
    series = 1 / 13 + q * (1 / 15)
    series = 1 / 11 + q * series
    series = 1 / 9 + q * series
    series = 1 / 7 + q * series
    series = 1 / 5 + q * series
    series = 1 / 3 + q * series
    return 2 * s * (1 + q * series)


@triton.jit
@no_type_check
def _decay_forward(raw, y, n, temperature, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(raw + at, mask=at < n, other=0).to(tl.float32)
    log_share = tl.minimum(x, 0) - _log1p_of_share(tl.exp(-tl.abs(x)))
    tl.store(y + at, log_share / temperature, mask=at < n)


@triton.jit
@no_type_check
def _decay_backward(raw, d_y, d_raw, n, temperature, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(raw + at, mask=at < n, other=0).to(tl.float32)
    given = tl.load(d_y + at, mask=at < n, other=0)
    d_x = given * sigmoid(-x) / temperature
    tl.store(d_raw + at, d_x.to(d_raw.dtype.element_ty), mask=at < n)


class _LogDecay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, raw, temperature):
        raw = raw.contiguous()
        y = torch.empty(raw.shape, dtype=torch.float32, device=raw.device)
        n = raw.numel()
        _decay_forward[(triton.cdiv(n, BLOCK),)](raw, y, n, temperature, BLOCK=BLOCK)
        ctx.save_for_backward(raw)
        ctx.temperature = temperature
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_y):  # pyright: ignore[reportIncompatibleMethodOverride]
        (raw,) = ctx.saved_tensors
        d_raw = torch.empty_like(raw)
        n = raw.numel()
        _decay_backward[(triton.cdiv(n, BLOCK),)](
            raw, d_y.contiguous(), d_raw, n, ctx.temperature, BLOCK=BLOCK
        )
        return d_raw, None


def glu(gate_up: Float[Tensor, "*N G"]) -> Float[Tensor, "*N F"]:
    """Compute pointwise.glu."""
    return _GLU.apply(gate_up)


def log_decay(raw: Float[Tensor, "*N"], *, temperature: float) -> Float[Tensor, "*N"]:
    """Compute pointwise.log_decay."""
    return _LogDecay.apply(raw, temperature)
