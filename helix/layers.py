"""Layers that every family shares: RMSNorm, SwiGLU, rotary embedding.

Dims: B batch, T time, H heads, D width of a head or of the model.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from helix import kernels
from helix.kernels.chunks import scan_dtype


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last axis, with statistics in float32.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """

    def __init__(self, d: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(d))
        self.normalise = kernels.select("rms_norm", "auto")

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Normalise; the result has the dtype of `x`."""
        return self.normalise(x, self.weight, eps=self.eps)


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x), with gate and up in one product.

    Source: Shazeer 2020, arXiv:2002.05202.
    """

    def __init__(self, d_model: int, d_ffn: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ffn, bias=False)
        self.down = nn.Linear(d_ffn, d_model, bias=False)
        self.glu = kernels.select("glu", "auto")

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Apply to each token alone."""
        return self.down(self.glu(self.gate_up(x)))


def rotate(
    x: Float[Tensor, "B T H D"], positions: Int64[Tensor, "B T"], *, theta: float
) -> Float[Tensor, "B T H D"]:
    """Turn each pair of channels by an angle that grows with the position.

    Args:
        positions: Position of each token in its own document.
        theta: Base of the wavelengths, which run from 2 pi to 2 pi theta tokens.

    Returns:
        The dtype of `x`; angles are computed in float32.

    Source: Su et al. 2021, arXiv:2104.09864, equation 34 (halves, not interleaved pairs).
    """
    half = x.shape[-1] // 2
    channel = torch.arange(half, device=x.device, dtype=torch.float32)
    angle = positions[..., None].float() * theta ** (-channel / half)  # (B, T, D/2)
    cos, sin = angle.cos()[:, :, None], angle.sin()[:, :, None]
    first, second = x.to(scan_dtype(x)).split(half, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)
