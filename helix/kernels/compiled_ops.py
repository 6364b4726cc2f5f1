"""Our own PyTorch forms under torch.compile, where only passes over memory count.

Dims: B batch, T time, C channels, W taps, L earlier tokens (W - 1).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helix.kernels.conv import causal_conv as eager_conv

if not torch.cuda.is_available():
    raise ImportError("no CUDA device")

compiled_conv = torch.compile(eager_conv, dynamic=False)
SHORT_TOKENS = 64  # decoding and its odd lengths would compile again for each length


def causal_conv(
    x: Float[Tensor, "B T C"],
    weight: Float[Tensor, "C W"],
    bias: Float[Tensor, " C"] | None,
    starts: Bool[Tensor, "B T"],
    tail: Float[Tensor, "B L C"] | None = None,
) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B L C"]]:
    """Compute conv.causal_conv_reference in few passes over memory."""
    convolve = eager_conv if x.shape[1] < SHORT_TOKENS else compiled_conv
    return convolve(x, weight, bias, starts, tail)
