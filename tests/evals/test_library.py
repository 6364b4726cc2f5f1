"""The library's layers are the same functions as ours: what is timed side by side is one model."""

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from evals.throughput.library import build_mixer
from helix.mixers import MIXERS
from helix.mixers.gla import GLAConfig
from helix.mixers.mamba2 import Mamba2Config
from helix.mixers.sparse import SparseConfig
from helix.models import HybridConfig
from tests.numerics import assert_close

CONFIG = HybridConfig(
    d_model=128,
    pattern="mamba2 gla sparse",
    mamba2=Mamba2Config(d_state=64, d_head=64),
    gla=GLAConfig(n_heads=2),
    sparse=SparseConfig(n_heads=2, window_tokens=64, n_global=4, qk_norm=True),
)
N_TOKENS = 256
NAMES = {
    "mamba2": {
        "in_proj.weight": "layer.in_proj.weight",
        "conv.weight": "layer.conv1d.weight",
        "conv.bias": "layer.conv1d.bias",
        "A_log": "layer.A_log",
        "dt_bias": "layer.dt_bias",
        "D": "layer.D",
        "norm.weight": "layer.norm.weight",
        "out_proj.weight": "layer.out_proj.weight",
    },
    "gla": {
        "decay_down.weight": "layer.gk_proj.0.weight",
        "decay_up.weight": "layer.gk_proj.1.weight",
        "decay_up.bias": "layer.gk_proj.1.bias",
        "norm.weight": "layer.g_norm_swish_gate.weight",
        "out_proj.weight": "layer.o_proj.weight",
    },
    "sparse": {
        "heads.in_proj.weight": "in_proj.weight",
        "heads.q_norm.weight": "norms.0.weight",
        "heads.k_norm.weight": "norms.1.weight",
        "out_proj.weight": "out_proj.weight",
    },
}


@torch.no_grad()
def copy_weights(kind: str, ours: nn.Module, theirs: nn.Module) -> None:
    """Draw weights for our layer and set the library's to the same."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in ours.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator) * 0.1
        parameter.copy_(drawn.abs() if name == "A_log" else drawn)
    weights = dict(ours.named_parameters())
    for name, their_name in NAMES[kind].items():
        target = theirs.get_parameter(their_name)
        target.copy_(weights.pop(name).view_as(target))
    if kind == "gla":
        parts = weights.pop("in_proj.weight").split(ours.widths)
        for name, part in zip("qkvg", parts, strict=True):
            theirs.get_parameter(f"layer.{name}_proj.weight").copy_(part)
    assert not weights


def run(layer: nn.Module, x: Tensor, given: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    """Give a layer's output and the gradient of its input."""
    x = x.clone().requires_grad_()
    y = layer(x, *rest)
    y = y[0] if isinstance(y, tuple) else y
    return y, torch.autograd.grad(y, x, given)[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(find_spec("fla") is None, reason="needs flash-linear-attention")
@pytest.mark.parametrize("kind", NAMES)
def test_library_layer_is_the_same_function_of_one_document(kind):
    ours = MIXERS[kind](CONFIG.mixer(kind), CONFIG.d_model).cuda()
    theirs = build_mixer(kind, CONFIG).cuda()
    copy_weights(kind, ours, theirs)
    generator = torch.Generator().manual_seed(1)
    x, given = (torch.randn(2, N_TOKENS, 128, generator=generator).cuda() for _ in range(2))
    document = torch.zeros(2, N_TOKENS, dtype=torch.int64, device="cuda")
    for a, b in zip(run(theirs, x, given), run(ours, x, given, document), strict=True):
        assert_close(a, b, dtype=torch.bfloat16)  # their products round float32 to TF32
