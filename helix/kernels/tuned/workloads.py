"""The work that launch constants are judged by: each family as a training step calls it.

Rows hold three documents each. All but the loss go forward and backward; of the loss the kernel
over the logits alone is run, as the products around it take far longer and are not ours.

Dims: B batch, T time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional as F

N_DOCUMENTS = 3  # of a row


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Workload:
    """Work that gives its results, and what must be set right before each time that it runs."""

    run: Callable[[], list[Tensor]]
    prepare: Callable[[], None] = _nothing


class Rows(NamedTuple):
    """How many rows of how many tokens, where, in what precision."""

    n_rows: int
    n_tokens: int
    device: torch.device
    dtype: torch.dtype

    def draw(self, *shape: int) -> Tensor:
        """Draw numbers for each token."""
        shape = (self.n_rows, self.n_tokens, *shape)
        return torch.randn(shape, device=self.device, dtype=self.dtype)

    def draw_starts(self) -> Bool[Tensor, "B T"]:
        """Begin a document at the first token of each row, and others anywhere."""
        shape = (self.n_rows, N_DOCUMENTS - 1)
        starts = torch.zeros(self.n_rows, self.n_tokens, dtype=torch.bool, device=self.device)
        starts[:, 0] = True
        return starts.scatter_(1, torch.randint(self.n_tokens, shape, device=self.device), True)


def gla(rows: Rows, *, n_heads: int, d_key: int, d_value: int) -> Workload:
    """Run gated linear attention on slices of one projection, at the decays of a new model."""
    from helix.kernels.triton_gla import gla as scan

    widths = [n_heads * width for width in (d_key, d_key, d_value, d_value)]
    q, k, v, _ = (x.unflatten(-1, (n_heads, -1)) for x in rows.draw(sum(widths)).split(widths, -1))
    decays, starts = F.logsigmoid(rows.draw(n_heads, d_key).float()) / 16, rows.draw_starts()
    return _both_ways(lambda q, k, v, g: scan(q, k, v, g, starts)[0], [q, k, v, decays])


def ssd(rows: Rows, *, n_heads: int, d_head: int, n_groups: int, d_state: int) -> Workload:
    """Run Mamba-2's scan on slices of one projection, at the decays of a new model."""
    from helix.kernels.triton_ssd import ssd as scan

    widths = [n_heads * d_head, n_groups * d_state, n_groups * d_state]
    x, b, c = rows.draw(sum(widths)).split(widths, dim=-1)
    x = x.unflatten(-1, (n_heads, -1))
    b, c = (z.unflatten(-1, (n_groups, -1)) for z in (b, c))
    dt = F.softplus(rows.draw(n_heads).float() - 3)
    a, starts = -torch.linspace(1, 16, n_heads, device=rows.device), rows.draw_starts()
    skip = torch.ones(n_heads, device=rows.device)
    inputs = [x, dt, a, b, c, skip]
    return _both_ways(lambda x, dt, a, b, c, s: scan(x, dt, a, b, c, s, starts)[0], inputs)


def conv(rows: Rows, *, n_channels: int, n_taps: int, n_beside: int) -> Workload:
    """Run the convolution on the channels of a projection, with so many others before them."""
    from helix.kernels.triton_conv import causal_conv

    x = rows.draw(n_beside + n_channels)[..., n_beside:]
    kind = {"device": rows.device, "dtype": rows.dtype}
    weight, bias = torch.randn(n_channels, n_taps, **kind), torch.randn(n_channels, **kind)
    starts = rows.draw_starts()
    return _both_ways(lambda x, w, b: causal_conv(x, w, b, starts, silu=True)[0], [x, weight, bias])


def sparse(
    rows: Rows, *, n_heads: int, n_kv_heads: int, d_head: int, window_tokens: int, n_global: int
) -> Workload:
    """Run sparse attention; the values are a slice of a projection."""
    from helix.kernels.triton_sparse import sparse as attend

    heads = (n_heads, n_kv_heads, n_kv_heads)
    q, k, v = rows.draw(sum(heads), d_head).split(heads, dim=2)
    starts = rows.draw_starts()
    index = torch.arange(rows.n_tokens, device=rows.device)
    positions = index - torch.where(starts, index, 0).cummax(dim=1).values
    heard = partial(attend, window_tokens=window_tokens, n_global=n_global)
    inputs = [q.contiguous(), k.contiguous(), v]
    return _both_ways(lambda q, k, v: heard(q, k, v, positions)[0], inputs)


def cross_entropy(rows: Rows, *, n_vocab: int, chunk_rows: int) -> Workload:
    """Turn one chunk's logits into their gradient."""
    from helix.kernels.triton_cross_entropy import softmax_gradient_

    n_tokens = min(chunk_rows, rows.n_rows * rows.n_tokens)
    given = torch.randn(n_tokens, n_vocab, device=rows.device, dtype=rows.dtype)
    targets = torch.randint(n_vocab, (n_tokens,), device=rows.device)
    logits = torch.empty_like(given)

    def prepare() -> None:
        logits.copy_(given)

    def run() -> list[Tensor]:
        return [softmax_gradient_(logits, targets, ignored=-100), logits]

    return Workload(run, prepare)


def _both_ways(function: Callable[..., Tensor], inputs: list[Tensor]) -> Workload:
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.no_grad():
        pull = torch.randn_like(function(*leaves))

    def run() -> list[Tensor]:
        y = function(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, pull)]

    return Workload(run)
