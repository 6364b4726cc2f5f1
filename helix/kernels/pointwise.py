"""What happens to each token alone between the products: norms, gates, decays, rotations.

    rms_norm: x / sqrt(mean(x^2) + eps) * w        glu: silu(gate) * up
    log_decay: logsigmoid(raw) / temperature
    rotary: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), x1 and x2 the halves of a head

Dims: B batch, T time, H heads, D width of what is normalised or of a head, R half of it, N leading
axes, G width of [gate | up], F half of it.
Source: Zhang and Sennrich 2019, arXiv:1910.07467; Shazeer 2020, arXiv:2002.05202; Yang et al. 2023,
arXiv:2312.06635, section 4.4; Su et al. 2021, arXiv:2104.09864, equation 34 (halves, not
interleaved pairs).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from helix.kernels.chunks import scan_dtype


def rms_norm(
    x: Float[Tensor, "*N D"], weight: Float[Tensor, " D"], *, eps: float
) -> Float[Tensor, "*N D"]:
    """Normalise with statistics in float32 (float64 if `x` is); the result has the dtype of `x`."""
    dtype = scan_dtype(x)
    return F.rms_norm(x.to(dtype), weight.shape, weight.to(dtype), eps).to(x.dtype)


def residual_norm(
    x: Float[Tensor, "*N D"],
    added: Float[Tensor, "*N D"] | None,
    weight: Float[Tensor, " D"],
    *,
    eps: float,
) -> tuple[Float[Tensor, "*N D"], Float[Tensor, "*N D"]]:
    """Add to the stream, and normalise it.

    Args:
        added: None adds nothing, and then the stream is `x` itself.

    Returns:
        The stream and its `rms_norm`.
    """
    stream = x if added is None else x + added
    return stream, rms_norm(stream, weight, eps=eps)


def gated_norm(
    x: Float[Tensor, "*N D"],
    gate: Float[Tensor, "*N D"],
    weight: Float[Tensor, " D"],
    *,
    eps: float,
    gate_first: bool,
) -> Float[Tensor, "*N D"]:
    """Multiply by silu(gate) what is normalised, or before it is if `gate_first`."""
    if gate_first:
        return rms_norm(x * F.silu(gate), weight, eps=eps)
    return rms_norm(x, weight, eps=eps) * F.silu(gate)


def glu(gate_up: Float[Tensor, "*N G"]) -> Float[Tensor, "*N F"]:
    """Multiply the second half by the silu of the first."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def log_decay(raw: Float[Tensor, "*N"], *, temperature: float) -> Float[Tensor, "*N"]:
    """Give the logarithm of sigmoid(raw) ** (1 / temperature), in float32 (float64 if `raw` is)."""
    return F.logsigmoid(raw.to(scan_dtype(raw))) / temperature


def rotary(
    x: Float[Tensor, "B T H D"], cos: Float[Tensor, "B T R"], sin: Float[Tensor, "B T R"]
) -> Float[Tensor, "B T H D"]:
    """Turn each pair of channels, R apart, by the angle whose cosine and sine are given.

    Args:
        cos: In float32, as `sin`.

    Returns:
        The dtype of `x`.
    """
    cos, sin = cos[:, :, None], sin[:, :, None]
    first, second = x.to(scan_dtype(x)).chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)
