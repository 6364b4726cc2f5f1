"""Cross entropy of a linear head without ever holding all its logits.

    loss = sum_n  log sum_v exp(h_n w_v) - h_n w_{t_n}        d loss / d logits = softmax - one_hot

Both gradients are ready once a chunk's logits are, so they are formed in the forward pass and only
scaled in the backward pass.

Dims: N tokens, V vocabulary, D width of the model.
Source: Hsu et al. 2024, arXiv:2410.10989, section 3.2 (fused linear cross entropy).
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from helix.kernels.chunks import scan_dtype

MOST_LOGITS = 2**27  # scored at a time: half a GiB; their ranks and losses take that twice more


def cross_entropy_reference(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int64[Tensor, " N"],
    *,
    ignored: int = -100,
) -> Float[Tensor, ""]:
    """Sum the negative log-likelihood from dense logits: the truth the chunked form is held to."""
    dtype = scan_dtype(hidden)
    logits = hidden.to(dtype) @ weight.to(dtype).T
    return F.cross_entropy(logits, targets, ignore_index=ignored, reduction="sum")


def linear_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int64[Tensor, " N"],
    *,
    chunk_rows: int,
    ignored: int = -100,
) -> Float[Tensor, ""]:
    """Sum the negative log-likelihood in nats, `chunk_rows` tokens at a time.

    Args:
        targets: `ignored` where there is nothing to learn.
        chunk_rows: Holds chunk_rows * V float32 logits at a time; does not change the result.

    Returns:
        The sum, in float32 (float64 if `hidden` is float64). Gradients have the dtype of
        `hidden` and `weight`; the weight's is summed in float32.
    """
    with_gradients = torch.is_grad_enabled()
    return _LinearCrossEntropy.apply(hidden, weight, targets, chunk_rows, ignored, with_gradients)


def token_scores(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int64[Tensor, " N"],
    *,
    chunk_rows: int,
    ignored: int = -100,
) -> tuple[Float[Tensor, " N"], Int64[Tensor, " N"]]:
    """Score each token by itself, without gradient; what is ignored costs nothing.

    Args:
        chunk_rows: Scored at a time at most; fewer of a large vocabulary, see MOST_LOGITS.

    Returns:
        Negative log-likelihoods in nats and ranks: how many entries of the vocabulary are likelier
        than the target. Both are 0 where ignored.
    """
    nats = torch.zeros(targets.shape, dtype=scan_dtype(hidden), device=hidden.device)
    ranks = torch.zeros_like(targets)
    n_rows = min(chunk_rows, max(MOST_LOGITS // weight.shape[0], 1))
    with torch.no_grad():
        for rows in (targets != ignored).nonzero()[:, 0].split(n_rows):
            t = targets[rows]
            logits = product_in_float32(hidden[rows], weight.T)
            nats[rows] = F.cross_entropy(logits, t, reduction="none")
            ranks[rows] = count_likelier(logits, t)
    return nats, ranks


@torch.no_grad()
def count_likelier(
    logits: Float[Tensor, "*N V"], targets: Int64[Tensor, "*N"]
) -> Int64[Tensor, "*N"]:
    """Count the entries of the vocabulary above each target; of NaN, all: it is above nothing."""
    chosen = logits.gather(-1, targets[..., None])
    # as float32, which counts to 2^24: a CPU sums truth values three times as slowly
    n_below = torch.le(logits, chosen, out=torch.empty_like(logits)).sum(dim=-1)
    return logits.shape[-1] - n_below.long()


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, chunk_rows, ignored, with_gradients):
        dtype = scan_dtype(hidden)
        needs_hidden, needs_weight = (with_gradients and x for x in ctx.needs_input_grad[:2])
        d_hidden = torch.empty_like(hidden, dtype=dtype) if needs_hidden else None
        d_weight = torch.zeros_like(weight, dtype=dtype) if needs_weight else None
        loss = torch.zeros((), dtype=dtype, device=hidden.device)
        for first in range(0, hidden.shape[0], chunk_rows):
            rows = slice(first, first + chunk_rows)
            h, is_target = hidden[rows], (targets[rows] != ignored).to(dtype)[:, None]
            t = targets[rows, None].clamp(min=0)
            logits = product_in_float32(h, weight.T)
            top, chosen = logits.amax(-1, keepdim=True), logits.gather(1, t)
            weights = logits.sub_(top).exp_()
            total = weights.sum(-1, keepdim=True)
            loss += ((total.log() + top - chosen) * is_target).sum()
            if d_hidden is None and d_weight is None:
                continue
            d_logits = weights.mul_(is_target / total).scatter_add_(1, t, -is_target)
            if d_hidden is not None:
                d_hidden[rows] = product_in_float32(d_logits.to(weight.dtype), weight)
            if d_weight is not None:
                d_weight += product_in_float32(d_logits.to(weight.dtype).T, h)
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_loss):  # pyright: ignore[reportIncompatibleMethodOverride]
        gradients = (
            None if x is None else (x * d_loss).to(dtype)
            for x, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return *gradients, None, None, None, None


def product_in_float32(a: Float[Tensor, "N K"], b: Float[Tensor, "K M"]) -> Float[Tensor, "N M"]:
    """Multiply with the result in float32, on tensor cores where the operands are 16 bits wide.

    The result is float64 where `a` is.
    """
    dtype = scan_dtype(a)
    if a.is_cuda and a.dtype == b.dtype != dtype:
        return torch.mm(a, b, out_dtype=dtype)
    return a.to(dtype) @ b.to(dtype)
