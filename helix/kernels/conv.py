"""Causal depthwise convolution that does not reach across documents.

    y_t = bias + sum_l weight_{W-1-l} x_{t-l}   over the lags l < W at which t-l is in t's document

Dims: B batch, T time, C channels, W taps, S inputs and those kept before, L of them left (W - 1).
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from helix.kernels.chunks import scan_dtype


def causal_conv_reference(
    x: Float[Tensor, "B T C"],
    weight: Float[Tensor, "C W"],
    bias: Float[Tensor, " C"] | None,
    starts: Bool[Tensor, "B T"],
    tail: Float[Tensor, "B W-1 C"] | None = None,
    *,
    silu: bool = False,
) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B W-1 C"]]:
    """Slide along time with the last W-1 inputs in hand: the truth that `causal_conv` is held to.

    Args:
        weight: The last tap meets the present token.
        starts: True where a document begins; inputs before that token count as zero.
        tail: The last W-1 inputs before these, zero where they belong to an earlier document;
            None means there were none.
        silu: Whether the outputs pass through silu.

    Returns:
        The outputs, in the dtype of `x`, and the tail for the tokens that follow.
    """
    dtype = scan_dtype(x)
    if tail is None:
        tail = _empty_tail(x, weight)
    outputs = []
    for t in range(x.shape[1]):
        tail = tail.masked_fill(starts[:, t, None, None], 0)
        window = torch.cat((tail, x[:, t : t + 1]), dim=1)
        outputs.append(torch.einsum("bwc,cw->bc", window.to(dtype), weight.to(dtype)))
        tail = window[:, 1:]
    y = torch.stack(outputs, dim=1)
    y = y if bias is None else y + bias
    return (F.silu(y) if silu else y).to(x.dtype), tail


def causal_conv(
    x: Float[Tensor, "B T C"],
    weight: Float[Tensor, "C W"],
    bias: Float[Tensor, " C"] | None,
    starts: Bool[Tensor, "B T"],
    tail: Float[Tensor, "B W-1 C"] | None = None,
    *,
    silu: bool = False,
) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B W-1 C"]]:
    """Compute `causal_conv_reference` as a sum of W shifted products."""
    dtype = scan_dtype(x)
    n_tokens, n_taps = x.shape[1], weight.shape[1]
    n_tail = n_taps - 1
    if tail is None:
        tail = _empty_tail(x, weight)
    padded = torch.cat((tail, x), dim=1)
    document = F.pad(starts.cumsum(1), (n_tail, 0))  # (B, W-1+T); the tail continues as number 0
    taps = weight.to(dtype).unbind(1)
    y = x.to(dtype) * taps[-1]
    if bias is not None:
        y = y + bias.to(dtype)
    for first in range(n_tail):
        window = slice(first, first + n_tokens)
        other = document[:, window] != document[:, n_tail:]
        y = torch.addcmul(
            y, padded[:, window].masked_fill(other[..., None], 0).to(dtype), taps[first]
        )
    return (F.silu(y) if silu else y).to(x.dtype), leave_tail(padded, document, n_tail=n_tail)


def leave_tail(
    inputs: Float[Tensor, "B S C"], document: Int64[Tensor, "B S"], *, n_tail: int
) -> Float[Tensor, "B L C"]:
    """Give the last `n_tail` inputs, zero where they are not of the last one's document."""
    last = slice(inputs.shape[1] - n_tail, None)
    other = document[:, last] != document[:, -1:]
    return inputs[:, last].masked_fill(other[..., None], 0)


def _empty_tail(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_zeros(x.shape[0], weight.shape[1] - 1, x.shape[2])
