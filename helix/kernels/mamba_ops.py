"""Adapters to the Triton kernels of mamba_ssm.

`import mamba_ssm` needs a compiled extension that most installs lack and that Mamba-2 does not
use; so its Triton modules are loaded below a package of its name that runs nothing.

Dims: B batch, T time, H heads, P width of a head, G groups of heads, N width of the state.
Source: github.com/state-spaces/mamba, mamba_ssm/ops/triton/ssd_combined.py, 2.3.2.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helix.kernels.ssd import ssd_chunked

if not torch.cuda.is_available():
    raise ImportError("no CUDA device")

from helix.kernels.autotune import shorten


def load_scan() -> Callable:
    """Load mamba_chunk_scan_combined without running mamba_ssm/__init__.py."""
    spec = importlib.util.find_spec("mamba_ssm")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("mamba_ssm is not installed")
    hollow = types.ModuleType("mamba_ssm")
    hollow.__path__ = list(spec.submodule_search_locations)
    whole = sys.modules.pop("mamba_ssm", None)
    sys.modules["mamba_ssm"] = hollow
    try:
        module = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
        shorten("mamba_ssm")
        return module.mamba_chunk_scan_combined
    finally:
        del sys.modules["mamba_ssm"]  # so that a real import of it still runs
        if whole is not None:
            sys.modules["mamba_ssm"] = whole


scan = load_scan()

CHUNK_TOKENS = 128  # of 128 and 256 the faster: 4.8 against 5.7 ms at 0.9B's shapes on one H200
SHORT_TOKENS = 64  # below this, launching the chunked kernels costs more than they compute
PIECE_TOKENS = 32_768  # the kernels' offsets are 32 bits wide: wrong beyond some 61,000 tokens


def ssd(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    a: Float[Tensor, " H"],
    b: Float[Tensor, "B T G N"],
    c: Float[Tensor, "B T G N"],
    skip: Float[Tensor, " H"],
    starts: Bool[Tensor, "B T"],
    state: Float[Tensor, "B H P N"] | None = None,
    *,
    chunk_tokens: int = 64,
) -> tuple[Float[Tensor, "B T H P"], Float[Tensor, "B H P N"]]:
    """Compute ssd.ssd_reference on the GPU; `chunk_tokens` is that of short inputs alone."""
    if x.shape[1] < SHORT_TOKENS:
        return ssd_chunked(x, dt, a, b, c, skip, starts, state, chunk_tokens=chunk_tokens)
    outputs = []
    timed = (x, dt, b, c, starts)
    for x_, dt_, b_, c_, starts_ in zip(
        *(z.split(PIECE_TOKENS, dim=1) for z in timed), strict=True
    ):
        y, state = scan(
            x_,
            dt_,
            a,
            b_,
            c_,
            CHUNK_TOKENS,
            D=skip,
            initial_states=state,
            seq_idx=starts_.cumsum(1).int(),  # 0 goes on with the state
            return_final_states=True,
        )
        outputs.append(y)
    assert state is not None
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], state
