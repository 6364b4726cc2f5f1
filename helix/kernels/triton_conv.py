"""The causal convolution on a GPU, in one pass forward and one backward.

A program walks along a run of tokens with the W-1 inputs before them in registers, so that each is
loaded once. Backward it computes again what silu was given, and holds back the gradient of each
token until the W-1 after it have added theirs.

Dims: B batch, T time, C channels, W taps.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor

from helix.kernels import conv
from helix.kernels.devices import require_cuda
from helix.kernels.parts import make_room, room_of
from helix.kernels.triton_gates import sigmoid
from helix.kernels.triton_norm import unit_of
from helix.kernels.tuned import tuned

require_cuda()

SHORT_TOKENS = 64  # shorter or continued rows take the PyTorch form
# tokens of a program, and how many of them are loaded at once; channels, 8 or 4 a thread
FORWARD = tuned("conv.FORWARD", {"RUN": 64, "AT_ONCE": 4, "BC": 256, "num_warps": 1})
BACKWARD = tuned(
    "conv.BACKWARD", {"RUN": 128, "AT_ONCE": 4, "BC": 256, "num_warps": 2, "maxnreg": 128}
)


@triton.jit
@no_type_check
def _load_taps(weights, bias, c, n_channels, TAPS: tl.constexpr, HAS_BIAS: tl.constexpr):
    """Give the weight of each lag, and the bias."""
    taps = ()
    inside = c < n_channels
    for lag in tl.static_range(TAPS):
        tap = tl.load(weights + (TAPS - 1 - lag) * n_channels + c, mask=inside, other=0)
        taps += (tap.to(tl.float32),)
    level = tl.zeros(c.shape, tl.float32)
    if HAS_BIAS:
        level += tl.load(bias + c, mask=inside, other=0).to(tl.float32)
    return taps, level


@triton.jit
@no_type_check
def _load_past(x, starts, first, x_token, inside, TAPS: tl.constexpr):
    """Give the inputs before a run, latest first, and how far back the latest's document goes."""
    past = ()
    behind = TAPS - 1
    for lag in tl.static_range(1, TAPS):
        t = first - lag
        value = tl.load(x + t.to(tl.int64) * x_token, mask=inside & (t >= 0), other=0)
        past += (value.to(tl.float32),)
        begins = tl.load(starts + t, mask=t >= 0, other=0) != 0
        behind = tl.where(begins, tl.minimum(behind, lag - 1), behind)
    return past, behind


@triton.jit
@no_type_check
def _load_run(x, t, n_tokens, token, inside, AT_ONCE: tl.constexpr):
    values = ()
    for i in tl.static_range(AT_ONCE):
        at = x + (t + i).to(tl.int64) * token
        values += (tl.load(at, mask=inside & (t + i < n_tokens), other=0),)
    return values


@triton.jit
@no_type_check
def _hear(now, past, behind, TAPS: tl.constexpr):
    """Give the inputs of a token's own document at each lag, itself first."""
    heard = (now.to(tl.float32),)
    for lag in tl.static_range(1, TAPS):
        heard += (tl.where(behind >= lag, past[lag - 1], 0.0),)
    return heard


@triton.jit
@no_type_check
def _weigh(taps, level, heard, TAPS: tl.constexpr):
    total = level
    for lag in tl.static_range(TAPS):
        total += taps[lag] * heard[lag]
    return total


@triton.jit
@no_type_check
def _count(sums, d_total, heard, TAPS: tl.constexpr):
    """Add a token's share to the gradients of the taps, then of the bias."""
    counted = ()
    for lag in tl.static_range(TAPS):
        counted += (sums[lag] + d_total * heard[lag],)
    counted += (sums[TAPS] + d_total,)
    return counted


@triton.jit
@no_type_check
def _repay(owed, d_total, taps, behind, TAPS: tl.constexpr):
    """Add what a token owes to itself and to those that it heard."""
    repaid = (taps[0] * d_total,)
    for lag in tl.static_range(1, TAPS):
        repaid += (owed[lag - 1] + taps[lag] * tl.where(behind >= lag, d_total, 0.0),)
    return repaid


@triton.jit
@no_type_check
def _forward(
    x, weights, bias, starts, y, n_tokens, n_channels, x_row, x_token,
    UNIT: tl.constexpr, TAPS: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr,
    RUN: tl.constexpr, AT_ONCE: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(2).to(tl.int64)
    first = tl.program_id(1) * RUN
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = c < n_channels
    x += row * x_row * UNIT + c
    y += row * n_tokens * n_channels + c
    starts += row * n_tokens
    taps, level = _load_taps(weights, bias, c, n_channels, TAPS, HAS_BIAS)
    past, behind = _load_past(x, starts, first, x_token * UNIT, inside, TAPS)
    for done in range(0, RUN, AT_ONCE):
        t = first + done
        inputs = _load_run(x, t, n_tokens, x_token * UNIT, inside, AT_ONCE)
        begins = _load_run(starts, t, n_tokens, 1, True, AT_ONCE)
        for i in tl.static_range(AT_ONCE):
            behind = tl.where(begins[i] != 0, 0, behind + 1)
            heard = _hear(inputs[i], past, behind, TAPS)
            total = _weigh(taps, level, heard, TAPS)
            if SILU:
                total = total * sigmoid(total)
            at = y + (t + i).to(tl.int64) * n_channels
            tl.store(at, total.to(y.dtype.element_ty), mask=inside & (t + i < n_tokens))
            past = heard[: TAPS - 1]


@triton.jit
@no_type_check
def _backward(
    x, weights, bias, starts, d_y, d_x, d_weights, n_tokens, n_channels, x_row, x_token,
    room_row, room_token, UNIT: tl.constexpr, UNIT_ROOM: tl.constexpr,
    TAPS: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr,
    RUN: tl.constexpr, AT_ONCE: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(2).to(tl.int64)
    first = tl.program_id(1) * RUN
    end = tl.minimum(first + RUN, n_tokens)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = c < n_channels
    x += row * x_row * UNIT + c
    d_y += row * n_tokens * n_channels + c
    d_x += row * room_row * UNIT_ROOM + c
    starts += row * n_tokens
    taps, level = _load_taps(weights, bias, c, n_channels, TAPS, HAS_BIAS)
    past, behind = _load_past(x, starts, first, x_token * UNIT, inside, TAPS)
    zero = tl.zeros([BC], tl.float32)
    # of the inputs before, latest first, gradients not yet complete; of taps and bias, their sums
    owed, sums = (zero,) * (TAPS - 1), (zero,) * (TAPS + 1)
    for done in range(0, RUN + TAPS - 1, AT_ONCE):
        t = first + done
        inputs = _load_run(x, t, n_tokens, x_token * UNIT, inside, AT_ONCE)
        given = _load_run(d_y, t, n_tokens, n_channels, inside, AT_ONCE)
        begins = _load_run(starts, t, n_tokens, 1, True, AT_ONCE)
        for i in tl.static_range(AT_ONCE):
            behind = tl.where(begins[i] != 0, 0, behind + 1)
            heard = _hear(inputs[i], past, behind, TAPS)
            d_total = given[i].to(tl.float32)
            if SILU:
                total = _weigh(taps, level, heard, TAPS)
                share = sigmoid(total)
                d_total *= share * (1 + total * (1 - share))
            # tokens beyond the run are here for what they owe it; their own program counts them
            sums = _count(sums, tl.where(t + i < end, d_total, 0.0), heard, TAPS)
            repaid = _repay(owed, d_total, taps, behind, TAPS)
            complete = t + i - (TAPS - 1)
            at = d_x + complete.to(tl.int64) * room_token * UNIT_ROOM
            is_own = (complete >= first) & (complete < end)
            tl.store(at, repaid[TAPS - 1].to(d_x.dtype.element_ty), mask=inside & is_own)
            owed, past = repaid[: TAPS - 1], heard[: TAPS - 1]
    program = row * tl.num_programs(1) + tl.program_id(1)
    d_weights += program * (TAPS + 1) * n_channels + c
    for lag in tl.static_range(TAPS):
        tl.store(d_weights + (TAPS - 1 - lag) * n_channels, sums[lag], mask=inside)
    tl.store(d_weights + TAPS * n_channels, sums[TAPS], mask=inside)


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weights, bias, starts, silu):
        _, n_tokens, n_channels = x.shape
        ctx.room = room_of(x)
        x = x if x.stride(2) == 1 else x.contiguous()
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        unit = unit_of(x.stride(0), x.stride(1))
        _forward[blocks_of(x, FORWARD)](
            x, weights, weights if bias is None else bias, starts, y, n_tokens, n_channels,
            x.stride(0) // unit, x.stride(1) // unit, unit,
            TAPS=weights.shape[0], HAS_BIAS=bias is not None, SILU=silu, **FORWARD,
        )  # fmt: skip
        ctx.save_for_backward(x, weights, bias, starts)
        ctx.silu = silu
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_y):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weights, bias, starts = ctx.saved_tensors
        n_tokens, n_channels, n_taps = *x.shape[1:], weights.shape[0]
        d_y = d_y.contiguous()
        d_x = make_room(ctx.room, x)
        unit = unit_of(x.stride(0), x.stride(1))
        unit_room = unit_of(d_x.stride(0), d_x.stride(1))
        blocks = blocks_of(x, BACKWARD)
        sums = torch.empty(blocks[1] * blocks[2], n_taps + 1, n_channels, device=x.device)
        _backward[blocks](
            x, weights, weights if bias is None else bias, starts, d_y, d_x, sums, n_tokens,
            n_channels, x.stride(0) // unit, x.stride(1) // unit,
            d_x.stride(0) // unit_room, d_x.stride(1) // unit_room, unit, unit_room,
            TAPS=n_taps, HAS_BIAS=bias is not None, SILU=ctx.silu, **BACKWARD,
        )  # fmt: skip
        total = sums.sum(0).to(weights.dtype)
        return d_x, total[:n_taps], None if bias is None else total[n_taps], None, None


def blocks_of(x: Float[Tensor, "B T C"], sizes: dict[str, int]) -> tuple[int, int, int]:
    """Count the blocks of channels, the runs of tokens, and the rows."""
    n_rows, n_tokens, n_channels = x.shape
    return triton.cdiv(n_channels, sizes["BC"]), triton.cdiv(n_tokens, sizes["RUN"]), n_rows


def causal_conv(
    x: Float[Tensor, "B T C"],
    weight: Float[Tensor, "C W"],
    bias: Float[Tensor, " C"] | None,
    starts: Bool[Tensor, "B T"],
    tail: Float[Tensor, "B W-1 C"] | None = None,
    *,
    silu: bool = False,
) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B W-1 C"]]:
    """Compute conv.causal_conv_reference from the first token on; see there."""
    n_tail = weight.shape[1] - 1
    if tail is not None or x.shape[1] < max(SHORT_TOKENS, n_tail):
        return conv.causal_conv(x, weight, bias, starts, tail, silu=silu)
    # with channels side by side, weights are loaded like inputs
    y = _CausalConv.apply(x, weight.T.contiguous(), bias, starts.contiguous(), silu)
    last = slice(x.shape[1] - n_tail, None)
    return y, conv.leave_tail(x[:, last], starts[:, last].cumsum(1), n_tail=n_tail)
