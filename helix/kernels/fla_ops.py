"""Adapters to flash-linear-attention.

Dims: B batch, T time, H heads, K key width, V value width.
Source: github.com/fla-org/flash-linear-attention, fla/ops/gla, 0.6.0.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helix.kernels.gla import gla_chunked

if not torch.cuda.is_available():
    raise ImportError("no CUDA device")

from fla.ops.gla import chunk_gla

from helix.kernels.autotune import shorten

shorten("fla")

# exp(-100) is less than float32 can add to anything, and sums of it keep the digits of the decays
# beside it. So values tell documents apart, not shapes, and packing never tunes a kernel anew.
FORGOTTEN = -100.0
SHORT_TOKENS = 64  # below this, launching the chunked kernels costs more than they compute


def gla(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    log_decay: Float[Tensor, "B T H K"],
    starts: Bool[Tensor, "B T"],
    state: Float[Tensor, "B H K V"] | None = None,
    *,
    chunk_tokens: int = 64,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K V"]]:
    """Compute gla.gla_reference on the GPU; `chunk_tokens` is that of short inputs alone."""
    if q.shape[1] < SHORT_TOKENS:
        return gla_chunked(q, k, v, log_decay, starts, state, chunk_tokens=chunk_tokens)
    isolated = log_decay.masked_fill(starts[..., None, None], FORGOTTEN)
    return chunk_gla(q, k, v, isolated, initial_state=state, output_final_state=True)
