"""Training in products of 8 bits: a linear map, a SwiGLU, a head with its loss.

Both sides of every product are rounded to 8 bits, forward and backward; what lies between products
is not. Without a gradient to form, the ordinary products are the better choice: they round less.

Dims: N tokens, D width of the model, E width of an output, G width of [gate | up], F half of it,
V vocabulary.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from helix.kernels.fp8 import (
    REFERENCE,
    WIDTH_MULTIPLE,
    Both,
    Operand,
    Primitives,
    empty_transposed,
    padded,
)

WEIGHT_TOKENS = 32768  # of one product for the head's weight: V bytes are held for each


def linear(
    x: Float[Tensor, "*N D"], weight: Float[Tensor, "E D"], *, primitives: Primitives = REFERENCE
) -> Float[Tensor, "*N E"]:
    """Multiply each token by a matrix.

    Raises:
        ValueError: A width is no multiple of 16.
    """
    _check(weight)
    return _Linear.apply(x, weight, primitives)


def swiglu(
    x: Float[Tensor, "*N D"],
    gate_up: Float[Tensor, "G D"],
    down: Float[Tensor, "D F"],
    *,
    primitives: Primitives = REFERENCE,
) -> Float[Tensor, "*N D"]:
    """Compute down(glu(gate_up x)), and keep no more of it than x and gate_up x for later.

    Raises:
        ValueError: A width is no multiple of 16.
    """
    _check(gate_up)
    _check(down)
    return _SwiGLU.apply(x, gate_up, down, primitives)


def linear_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int64[Tensor, " N"],
    *,
    chunk_rows: int,
    ignored: int = -100,
    primitives: Primitives = REFERENCE,
) -> Float[Tensor, ""]:
    """Compute cross_entropy.linear_cross_entropy for training: gradients are always formed.

    Besides a chunk's logits this holds V bytes for each token, up to WEIGHT_TOKENS of them: the
    weight's gradient is one product over many tokens, as none can add to what is there.

    Raises:
        ValueError: A width is no multiple of 16.
    """
    _check(weight)
    return _LinearCrossEntropy.apply(hidden, weight, targets, chunk_rows, ignored, primitives)


def _check(weight: Tensor) -> None:
    if any(width % WIDTH_MULTIPLE for width in weight.shape):
        raise ValueError(
            f"a weight of shape {tuple(weight.shape)}: 8-bit products need widths that are "
            f"multiples of {WIDTH_MULTIPLE}"
        )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, primitives):
        flat = primitives.quantise(x.reshape(-1, x.shape[-1]), primitives.values)
        w = primitives.quantise(weight, primitives.values)
        ctx.save_for_backward(*flat.columns, *w.columns)
        ctx.primitives, ctx.dtype = primitives, weight.dtype
        y = primitives.product(flat.rows, w.rows, x.dtype)
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_y):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = Operand(*ctx.saved_tensors[:2]), Operand(*ctx.saved_tensors[2:])
        p = ctx.primitives
        d = p.quantise(d_y.reshape(-1, d_y.shape[-1]), p.gradients)
        d_x = p.product(d.rows, weight, d_y.dtype)
        return d_x.view(*d_y.shape[:-1], -1), p.product(d.columns, x, ctx.dtype), None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gate_up, down, primitives):
        flat = primitives.quantise(x.reshape(-1, x.shape[-1]), primitives.values)
        up, out = (primitives.quantise(weight, primitives.values) for weight in (gate_up, down))
        gated = primitives.product(flat.rows, up.rows, x.dtype)
        y = primitives.glu(gated, primitives.values)
        ctx.save_for_backward(gated, y.largest, *flat.columns, *up.columns, *out.columns)
        ctx.primitives, ctx.dtype = primitives, gate_up.dtype
        return primitives.product(y.rows, out.rows, x.dtype).view(x.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_out):  # pyright: ignore[reportIncompatibleMethodOverride]
        gated, largest, *kept = ctx.saved_tensors
        x, up, out = (Operand(*kept[i : i + 2]) for i in (0, 2, 4))
        p = ctx.primitives
        d = p.quantise(d_out.reshape(-1, d_out.shape[-1]), p.gradients)
        d_y = p.product(d.rows, out, d_out.dtype)
        d_gated, y = p.glu_gradient(gated, d_y, largest, p.values, p.gradients)
        d_x = p.product(d_gated.rows, up, d_out.dtype).view(d_out.shape)
        d_gate_up = p.product(d_gated.columns, x, ctx.dtype)
        return d_x, d_gate_up, p.product(d.columns, y, ctx.dtype), None


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, chunk_rows, ignored, primitives):
        h = primitives.quantise(hidden, primitives.values)
        w = primitives.quantise(weight, primitives.values)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        d_hidden, d_weight = [hidden[:0]], None
        for first in range(0, len(hidden), WEIGHT_TOKENS):
            span = slice(first, first + WEIGHT_TOKENS)
            of_span = Operand(h.rows.values[span], h.rows.inverse)
            losses, d_rows, d_columns = _walk(
                of_span, w, targets[span], padded(chunk_rows), ignored, hidden.dtype, primitives
            )
            loss += losses
            d_hidden += d_rows
            columns = h.columns.values[:, first : first + d_columns.values.shape[1]]
            term = primitives.product(d_columns, Operand(columns, h.columns.inverse), torch.float32)
            d_weight = term if d_weight is None else d_weight.add_(term)
        if d_weight is None:
            d_weight = torch.zeros_like(weight, dtype=torch.float32)
        ctx.save_for_backward(torch.cat(d_hidden), d_weight)
        ctx.primitives, ctx.dtype = primitives, weight.dtype
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_loss):  # pyright: ignore[reportIncompatibleMethodOverride]
        d_hidden, d_weight = ctx.saved_tensors
        scaled = ctx.primitives.scaled
        d_inputs = scaled(d_hidden, d_loss, d_hidden.dtype), scaled(d_weight, d_loss, ctx.dtype)
        return *d_inputs, None, None, None, None


def _walk(
    hidden: Operand, weight: Both, targets: Tensor, chunk_rows: int, ignored: int,
    dtype: torch.dtype, primitives: Primitives,
) -> tuple[Tensor, list[Tensor], Operand]:  # fmt: skip
    """Give the loss, the gradient of each chunk's hidden states, and all logits' transposed."""
    n, n_vocab, kind = len(targets), len(weight.rows.values), primitives.gradients
    columns = empty_transposed(n, n_vocab, kind, targets.device)
    losses, d_hidden, inverses = [], [], []
    for first in range(0, n, chunk_rows):
        rows = slice(first, min(first + chunk_rows, n))
        chunk = Operand(hidden.values[rows], hidden.inverse)
        logits = primitives.product(chunk, weight.rows, dtype)
        of_tokens, d_logits = primitives.softmax_gradient(
            logits, targets[rows], columns[:, first:], kind, ignored=ignored
        )
        del logits  # before the next chunk's are made
        losses.append(of_tokens)
        inverses.append(d_logits.inverse)
        d_hidden.append(primitives.product(d_logits, weight.columns, dtype))
    return torch.cat(losses).sum(), d_hidden, Operand(columns, inverses[0])
