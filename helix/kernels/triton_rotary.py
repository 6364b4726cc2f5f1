"""Rotary embedding on a GPU, in one pass over memory forward and one backward.

Dims: B batch, T time, H heads, D width of a head, R half of it.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from helix.kernels.devices import require_cuda
from helix.kernels.parts import make_room, room_of

require_cuda()

TILE = 1024  # angles that a program holds, for all heads of their tokens: 8 a thread
WARPS = 4


@triton.jit
@no_type_check
def _turn(
    x, cos, sin, y, n, n_tokens, half, x_row, x_token, x_head, y_row, y_token, y_head,
    BACK: tl.constexpr, HEADS: tl.constexpr, TOKENS: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    channel = tl.arange(0, R)[None, :]
    inside = (token < n)[:, None] & (channel < half)
    at = token.to(tl.int64)[:, None]
    c = tl.load(cos + at * half + channel, mask=inside, other=0)
    s = tl.load(sin + at * half + channel, mask=inside, other=0)
    if BACK:
        s = -s
    row, place = (token // n_tokens).to(tl.int64), (token % n_tokens).to(tl.int64)
    source = x + (row * x_row + place * x_token)[:, None] + channel
    target = y + (row * y_row + place * y_token)[:, None] + channel
    for _ in range(HEADS):
        first = tl.load(source, mask=inside, other=0).to(tl.float32)
        second = tl.load(source + half, mask=inside, other=0).to(tl.float32)
        tl.store(target, (first * c - second * s).to(y.dtype.element_ty), mask=inside)
        tl.store(target + half, (second * c + first * s).to(y.dtype.element_ty), mask=inside)
        source += x_head
        target += y_head


def turn(
    x: Float[Tensor, "B T H D"],
    cos: Float[Tensor, "B T R"],
    sin: Float[Tensor, "B T R"],
    y: Float[Tensor, "B T H D"],
    *,
    back: bool,
) -> Float[Tensor, "B T H D"]:
    """Turn by the angles given or, if `back`, against them; write the result into y."""
    if x.stride(3) != 1:
        x = x.contiguous()
    n_rows, n_tokens, n_heads, d = x.shape
    block = triton.next_power_of_2(d // 2)
    n_at_once = max(1, TILE // block)
    _turn[(triton.cdiv(n_rows * n_tokens, n_at_once),)](
        x, cos, sin, y, n_rows * n_tokens, n_tokens, d // 2, *x.stride()[:3], *y.stride()[:3],
        BACK=back, HEADS=n_heads, TOKENS=n_at_once, R=block, num_warps=WARPS,
    )  # fmt: skip
    return y


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, cos, sin):
        cos, sin = cos.contiguous(), sin.contiguous()
        ctx.save_for_backward(cos, sin)
        ctx.room = room_of(x)
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        return turn(x, cos, sin, y, back=False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_y):  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        return turn(d_y, cos, sin, make_room(ctx.room, d_y), back=True), None, None


def rotary(
    x: Float[Tensor, "B T H D"], cos: Float[Tensor, "B T R"], sin: Float[Tensor, "B T R"]
) -> Float[Tensor, "B T H D"]:
    """Compute pointwise.rotary; the angles get no gradient."""
    return _Rotary.apply(x, cos, sin)
