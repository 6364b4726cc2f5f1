"""The causal convolution on a GPU, in one pass forward and one backward.

Dims: B batch, T time, C channels, W taps.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from helix.kernels import conv
from helix.kernels.devices import require_cuda

require_cuda()

SHORT_TOKENS = 64  # shorter or continued rows take the PyTorch form
BLOCK_TOKENS = 64
BLOCK_CHANNELS = 128


@triton.jit
@no_type_check
def _forward(
    x, weight, bias, since, y, n_tokens, n_channels, x_row, x_token,
    TAPS: tl.constexpr, HAS_BIAS: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    of_row, of_channels = t < n_tokens, c < n_channels
    behind = tl.load(since + row * n_tokens + t, mask=of_row, other=0)
    total = tl.zeros([BT, BC], tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + c, mask=of_channels, other=0).to(tl.float32)[None, :]
    for lag in tl.static_range(TAPS):
        tap = tl.load(weight + c * TAPS + TAPS - 1 - lag, mask=of_channels, other=0)
        heard = (of_row & (lag <= behind))[:, None] & of_channels[None, :]
        at = row * x_row + (t - lag)[:, None].to(tl.int64) * x_token + c[None, :]
        total += tap.to(tl.float32)[None, :] * tl.load(x + at, mask=heard, other=0).to(tl.float32)
    at = (row * n_tokens + t)[:, None] * n_channels + c[None, :]
    tl.store(y + at, total.to(y.dtype.element_ty), mask=of_row[:, None] & of_channels[None, :])


@triton.jit
@no_type_check
def _backward(
    x, weight, since, d_y, d_x, d_weights, n_tokens, n_channels, x_row, x_token,
    TAPS: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    of_row, of_channels = t < n_tokens, c < n_channels
    both = of_row[:, None] & of_channels[None, :]
    behind = tl.load(since + row * n_tokens + t, mask=of_row, other=0)
    at = (row * n_tokens + t)[:, None] * n_channels + c[None, :]
    here = tl.load(d_y + at, mask=both, other=0).to(tl.float32)
    # each program leaves its own sums: TAPS of the weight, then that of the bias
    program = row * tl.num_programs(0) + tl.program_id(0)
    sums = d_weights + program * (TAPS + 1) * n_channels + c
    tl.store(sums + TAPS * n_channels, tl.sum(here, axis=0), mask=of_channels)
    total = tl.zeros([BT, BC], tl.float32)
    for lag in tl.static_range(TAPS):
        tap = tl.load(weight + c * TAPS + TAPS - 1 - lag, mask=of_channels, other=0)
        later = t + lag
        is_later = later < n_tokens
        theirs = tl.load(since + row * n_tokens + later, mask=is_later, other=-1)
        at = (row * n_tokens + later)[:, None] * n_channels + c[None, :]
        hears = (is_later & (lag <= theirs))[:, None] & of_channels[None, :]
        total += tap.to(tl.float32)[None, :] * tl.load(d_y + at, mask=hears, other=0).to(tl.float32)
        heard = (of_row & (lag <= behind))[:, None] & of_channels[None, :]
        at = row * x_row + (t - lag)[:, None].to(tl.int64) * x_token + c[None, :]
        earlier = tl.load(x + at, mask=heard, other=0).to(tl.float32)
        tl.store(sums + (TAPS - 1 - lag) * n_channels, tl.sum(here * earlier, axis=0), of_channels)
    at = (row * n_tokens + t)[:, None] * n_channels + c[None, :]
    tl.store(d_x + at, total.to(d_x.dtype.element_ty), mask=both)


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, since):
        n_rows, n_tokens, n_channels = x.shape
        x = x if x.stride(2) == 1 else x.contiguous()
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        blocks = triton.cdiv(n_tokens, BLOCK_TOKENS), triton.cdiv(n_channels, BLOCK_CHANNELS)
        _forward[(*blocks, n_rows)](
            x, weight, bias, since, y, n_tokens, n_channels, x.stride(0), x.stride(1),
            TAPS=weight.shape[1], HAS_BIAS=bias is not None, BT=BLOCK_TOKENS, BC=BLOCK_CHANNELS,
        )  # fmt: skip
        ctx.save_for_backward(x, weight, since)
        ctx.has_bias, ctx.blocks = bias is not None, blocks
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_y):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, since = ctx.saved_tensors
        n_rows, n_tokens, n_channels = x.shape
        n_taps = weight.shape[1]
        d_y = d_y.contiguous()
        d_x = torch.empty_like(d_y)
        n_programs = n_rows * ctx.blocks[0]
        sums = torch.empty(n_programs, n_taps + 1, n_channels, device=x.device)
        _backward[(*ctx.blocks, n_rows)](
            x, weight, since, d_y, d_x, sums, n_tokens, n_channels, x.stride(0), x.stride(1),
            TAPS=n_taps, BT=BLOCK_TOKENS, BC=BLOCK_CHANNELS,
        )  # fmt: skip
        total = sums.sum(0).to(weight.dtype)
        return d_x, total[:n_taps].T, total[n_taps] if ctx.has_bias else None, None


def causal_conv(
    x: Float[Tensor, "B T C"],
    weight: Float[Tensor, "C W"],
    bias: Float[Tensor, " C"] | None,
    starts: Bool[Tensor, "B T"],
    tail: Float[Tensor, "B W-1 C"] | None = None,
) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B W-1 C"]]:
    """Compute conv.causal_conv_reference from the first token on; see there."""
    n_tail = weight.shape[1] - 1
    if tail is not None or x.shape[1] < max(SHORT_TOKENS, n_tail):
        return conv.causal_conv(x, weight, bias, starts, tail)
    since = tokens_since_start(starts, limit=n_tail)
    y = _CausalConv.apply(x, weight.contiguous(), bias, since)
    return y, conv.leave_tail(x, starts.cumsum(1), n_tail=n_tail)


def tokens_since_start(starts: Bool[Tensor, "B T"], *, limit: int) -> Int32[Tensor, "B T"]:
    """Count the tokens of its own document before each, up to `limit`."""
    index = torch.arange(starts.shape[1], device=starts.device)
    first = torch.where(starts, index, 0).cummax(dim=1).values
    return (index - first).clamp(max=limit).int()
