"""Runs whole mixers with our Triton kernels under the interpreter: gradients in their places."""

from functools import partial

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from helix.kernels import (
    triton_conv,
    triton_gated_norm,
    triton_gla,
    triton_rotary,
    triton_sparse,
    triton_ssd,
)
from helix.mixers.gla import GatedLinearAttention, GLAConfig
from helix.mixers.mamba2 import Mamba2, Mamba2Config
from helix.mixers.sparse import SparseAttention, SparseConfig
from tests.kernels.interpreted.checks import run

D_MODEL, N_TOKENS = 64, 130


class Copies(TorchDispatchMode):
    """Lists the widths of what is copied from one tensor to another."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[int] = []

    def __torch_dispatch__(self, function, types, arguments=(), given=None):
        name = function.overloadpacket.__name__
        assert name != "cat"
        if name == "copy_" and arguments[0].ndim > 1:  # the interpreter moves flat memory
            self.widths.append(arguments[0].shape[-1])
        return function(*arguments, **(given or {}))


def check_mixer(make, use_kernels, *, copied: list[int]) -> None:
    """Hold a mixer's gradients to those of its PyTorch form, and list what of them is copied."""
    plain, ours = make(), make()
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.2)
    ours.load_state_dict(plain.state_dict())
    use_kernels(ours)
    x = torch.randn(2, N_TOKENS, D_MODEL, requires_grad=True)
    documents = (torch.arange(N_TOKENS) // 50).expand(2, -1)
    expected = plain(x, documents)[0]
    expected_weights = list(plain.parameters())
    given = torch.randn(expected.shape)
    truth = torch.autograd.grad(expected, [x, *expected_weights], given)
    actual = ours(x, documents)[0]
    with Copies() as copies:
        found = torch.autograd.grad(actual, [x, *ours.parameters()], given)
    for a, e in zip(found, truth, strict=True):
        assert (a - e).norm() <= 1e-4 * e.norm() + 1e-6, (a - e).norm() / e.norm()
    assert sorted(copies.widths) == sorted(copied), copies.widths


def check_gated_linear_attention() -> None:
    def use_kernels(mixer: GatedLinearAttention) -> None:
        mixer.scan = partial(triton_gla.gla, chunk_tokens=64)
        mixer.norm.normalise = triton_gated_norm.gated_norm

    config = GLAConfig(n_heads=2, decay_rank=4)
    check_mixer(partial(GatedLinearAttention, config, D_MODEL), use_kernels, copied=[])


def check_mamba2() -> None:
    def use_kernels(mixer: Mamba2) -> None:
        mixer.scan = triton_ssd.ssd
        mixer.conv.convolve = triton_conv.causal_conv
        mixer.norm.normalise = triton_gated_norm.gated_norm

    config = Mamba2Config(d_state=16, d_head=32)
    # b, c and dt come from sums over heads and from softplus
    check_mixer(partial(Mamba2, config, D_MODEL), use_kernels, copied=[4, 16, 16])


def check_sparse_attention() -> None:
    def use_kernels(mixer: SparseAttention) -> None:
        mixer.attend = partial(triton_sparse.sparse, window_tokens=40, n_global=4)
        mixer.heads.rotary.turn = triton_rotary.rotary

    for config, copied in (
        (SparseConfig(n_heads=4, n_kv_heads=2, window_tokens=40, n_global=4), []),
        (SparseConfig(n_heads=4, window_tokens=40, n_global=4, qk_norm=True), [64, 64]),
    ):
        check_mixer(partial(SparseAttention, config, D_MODEL), use_kernels, copied=copied)


if __name__ == "__main__":
    run(check_gated_linear_attention, check_mamba2, check_sparse_attention)
