"""What happens to each token alone between the products: norms and gates.

    rms_norm: x / sqrt(mean(x^2) + eps) * w        glu: silu(gate) * up

Dims: D width, G width of [gate | up], F half of it.
Source: Zhang and Sennrich 2019, arXiv:1910.07467; Shazeer 2020, arXiv:2002.05202.
"""

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


def glu(gate_up: Float[Tensor, "*N G"]) -> Float[Tensor, "*N F"]:
    """Multiply the second half by the silu of the first."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
