"""The loss of a linear head on a GPU: softmax - one_hot in place, weights summed in float32.

Dims: N tokens, V vocabulary, D width of the model.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int64
from torch import Tensor

from helix.kernels.devices import require_cuda
from helix.kernels.tuned import tuned

require_cuda()

# of a row that are read side by side, each LANE_COLUMNS neighbours at a time
LANES = tuned("cross_entropy.LANES", 1024)
LANE_COLUMNS = tuned("cross_entropy.LANE_COLUMNS", 8)
WARPS = tuned("cross_entropy.WARPS", 16)
SCALED_BLOCK = 4096


@triton.jit
@no_type_check
def log_total_of_row(
    logits, N_VOCAB: tl.constexpr, LANES: tl.constexpr, LANE_COLUMNS: tl.constexpr
):
    """Give the log of the sum of the exponentials of one row."""
    columns = tl.arange(0, LANES)[:, None] * LANE_COLUMNS + tl.arange(0, LANE_COLUMNS)[None, :]
    top = tl.full([LANES], -float("inf"), tl.float32)
    total = tl.zeros([LANES], tl.float32)
    for start in range(0, N_VOCAB, LANES * LANE_COLUMNS):
        at = start + columns
        x = tl.load(logits + at, mask=at < N_VOCAB, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(x, axis=1))
        # a lane that saw no column yet holds -inf, and -inf - -inf is no number
        seen = tl.where(higher == -float("inf"), 0.0, higher)
        total = total * tl.exp(top - seen) + tl.sum(tl.exp(x - seen[:, None]), axis=1)
        top = higher
    highest = tl.max(top, axis=0)
    return highest + tl.log(tl.sum(total * tl.exp(top - highest), axis=0))


@triton.jit
@no_type_check
def _softmax_gradient(
    logits, targets, losses, stride, ignored,
    N_VOCAB: tl.constexpr, LANES: tl.constexpr, LANE_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Turn one row of logits into softmax - one_hot in place, and give its loss."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    target = tl.load(targets + row)
    is_target = target != ignored
    # read before any thread has passed the sums below, behind which the row is overwritten
    chosen = tl.load(logits + tl.where(is_target, target, 0)).to(tl.float32)
    log_total = log_total_of_row(logits, N_VOCAB, LANES, LANE_COLUMNS)
    tl.store(losses + row, tl.where(is_target, log_total - chosen, 0.0))
    BLOCK: tl.constexpr = LANES * LANE_COLUMNS
    N_BLOCKS: tl.constexpr = (N_VOCAB + BLOCK - 1) // BLOCK
    columns = tl.arange(0, BLOCK)
    for step in range(N_BLOCKS):
        # backwards, as what was read last is still in the cache
        at = (N_BLOCKS - 1 - step) * BLOCK + columns
        x = tl.load(logits + at, mask=at < N_VOCAB, other=-float("inf")).to(tl.float32)
        gradient = tl.exp(x - log_total) - tl.where(at == target, 1.0, 0.0)
        gradient = tl.where(is_target, gradient, 0.0)
        tl.store(logits + at, gradient.to(logits.dtype.element_ty), mask=at < N_VOCAB)


@triton.jit
@no_type_check
def _scale(x, factor, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < n, other=0).to(tl.float32) * tl.load(factor)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=at < n)


def softmax_gradient_(
    logits: Float[Tensor, "N V"], targets: Int64[Tensor, " N"], *, ignored: int
) -> Float[Tensor, " N"]:
    """Overwrite logits by the gradient of the summed loss; give each token's loss in nats."""
    losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
    _softmax_gradient[(logits.shape[0],)](
        logits, targets, losses, logits.stride(0), ignored,
        N_VOCAB=logits.shape[1], LANES=LANES, LANE_COLUMNS=LANE_COLUMNS, num_warps=WARPS,
    )  # fmt: skip
    return losses


def scaled(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply by a factor that lies on the device, and round, in one pass."""
    y = torch.empty_like(x, dtype=dtype)
    _scale[(triton.cdiv(x.numel(), SCALED_BLOCK),)](x, factor, y, x.numel(), BLOCK=SCALED_BLOCK)
    return y


def linear_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int64[Tensor, " N"],
    *,
    chunk_rows: int,
    ignored: int = -100,
) -> Float[Tensor, ""]:
    """Compute cross_entropy.linear_cross_entropy with logits of the weight's dtype.

    The gradient of the weight is summed over chunks in float32 by the products themselves.
    """
    with_gradients = torch.is_grad_enabled()
    return _LinearCrossEntropy.apply(hidden, weight, targets, chunk_rows, ignored, with_gradients)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, chunk_rows, ignored, with_gradients):
        d_hidden = torch.empty_like(hidden) if with_gradients else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if with_gradients else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for first in range(0, hidden.shape[0], chunk_rows):
            rows = slice(first, first + chunk_rows)
            logits = hidden[rows] @ weight.T
            loss += softmax_gradient_(logits, targets[rows], ignored=ignored).sum()
            if d_hidden is not None and d_weight is not None:
                torch.mm(logits, weight, out=d_hidden[rows])
                _add_product(d_weight, logits.T, hidden[rows])
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.dtype = weight.dtype
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_loss):  # pyright: ignore[reportIncompatibleMethodOverride]
        d_hidden, d_weight = ctx.saved_tensors
        d_inputs = scaled(d_hidden, d_loss, d_hidden.dtype), scaled(d_weight, d_loss, ctx.dtype)
        return *d_inputs, None, None, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a b to a float32 total inside the product, whatever the width of its operands."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    else:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
