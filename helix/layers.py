"""Layers that every family shares: norms, SwiGLU, rotary embedding.

Dims: B batch, T time, H query heads, M key heads, D width of the model or of a head, R half of it.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from helix import kernels


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


class ResidualNorm(nn.Module):
    """RMSNorm of a stream that goes on beside it; both its gradients are added in one pass."""

    def __init__(self, d: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(d))
        self.normalise = kernels.select("residual_norm", "auto")

    def forward(
        self, x: Float[Tensor, "B T D"], added: Float[Tensor, "B T D"] | None = None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"]]:
        """Give the stream, `x` and what is added to it, and its norm."""
        return self.normalise(x, added, self.weight, eps=self.eps)


class GatedNorm(nn.Module):
    """RMSNorm of what a gate lets through, or a gate on what RMSNorm gives.

    Args:
        gate_first: Whether silu(gate) is multiplied before the norm: Dao and Gu 2024,
            arXiv:2405.21060, section 7; after it: Yang et al. 2023, arXiv:2312.06635, section 4.4.
    """

    def __init__(self, d: int, *, gate_first: bool, eps: float = 1e-6) -> None:
        super().__init__()
        self.gate_first = gate_first
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(d))
        self.normalise = kernels.select("gated_norm", "auto")

    def forward(
        self, x: Float[Tensor, "... D"], gate: Float[Tensor, "... D"]
    ) -> Float[Tensor, "... D"]:
        """Gate and normalise; the result has the dtype of `x`."""
        return self.normalise(x, gate, self.weight, eps=self.eps, gate_first=self.gate_first)


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x), with gate and up in one product.

    Args:
        is_fp8: Whether the products of training are of 8 bits; without gradients they never are.

    Source: Shazeer 2020, arXiv:2002.05202.
    """

    def __init__(self, d_model: int, d_ffn: int, *, is_fp8: bool = False) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ffn, bias=False)
        self.down = nn.Linear(d_ffn, d_model, bias=False)
        self.glu = kernels.select("glu", "auto")
        self.swiglu_fp8 = kernels.select_8_bit("swiglu_fp8") if is_fp8 else None

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Apply to each token alone."""
        if self.swiglu_fp8 is not None and torch.is_grad_enabled():
            return self.swiglu_fp8(x, self.gate_up.weight, self.down.weight)
        return self.down(self.glu(self.gate_up(x)))


class Rotary(nn.Module):
    """Turn pairs of channels by an angle that grows with the position.

    Args:
        theta: Base of the wavelengths, which run from 2 pi to 2 pi theta tokens.

    Source: Su et al. 2021, arXiv:2104.09864, equation 34 (halves, not interleaved pairs).
    """

    def __init__(self, d_head: int, *, theta: float) -> None:
        super().__init__()
        self.n_pairs = d_head // 2
        self.theta = theta
        self.turn = kernels.select("rotary", "auto")

    def forward(
        self,
        q: Float[Tensor, "B T H D"],
        k: Float[Tensor, "B T M D"],
        positions: Int64[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T H D"], Float[Tensor, "B T M D"]]:
        """Turn queries and keys by the positions of their tokens in their own documents."""
        cos, sin = self.angles(positions)
        return self.turn(q, cos, sin), self.turn(k, cos, sin)

    def angles(
        self, positions: Int64[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T R"], Float[Tensor, "B T R"]]:
        """Give the cosine and the sine of each angle, in float32."""
        channel = torch.arange(self.n_pairs, device=positions.device, dtype=torch.float32)
        angle = positions[..., None].float() * self.theta ** (-channel / self.n_pairs)
        return angle.cos(), angle.sin()
