"""Attention to a window and first tokens on a GPU, without a mask and without scores in memory.

The kernels find from each token's origin which blocks they need, so rows of any number of documents
cost what is heard. Sums have a fixed order: the same inputs give the same bits.

Dims: B batch, T time, H query heads, M key and value heads, D width of a head.
"""

from typing import NamedTuple

import torch
import triton
from jaxtyping import Float, Int32, Int64
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from helix.kernels import sparse as blocked
from helix.kernels import triton_sparse_keys as by_keys
from helix.kernels import triton_sparse_queries as by_queries
from helix.kernels.attention import document_origins
from helix.kernels.devices import require_cuda
from helix.kernels.parts import make_room, room_of
from helix.kernels.tuned import tuned

require_cuda()
if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] != 9:
    raise ImportError("blocks are cut for the shared memory of Hopper (compute capability 9)")

SHORT_TOKENS = 128  # shorter or continued rows, and odd widths, take the PyTorch form
WIDEST = 256  # of the heads whose sums fit in registers
LEAST_FLOAT32 = 128  # of the heads that have run in float32 on a GPU: see triton_ssd.LEAST_FLOAT32
CHUNK_TOKENS = 1024  # queries whose share in far first tokens is one sum; a multiple of all blocks
LOG2_E = 1.4426950408889634


class Blocks(NamedTuple):
    """How a kernel is cut, and what it is given: `n_registers` of a thread at most, if not None."""

    queries: int
    keys: int
    n_warps: int
    n_stages: int
    n_registers: int | None = None


# By width of a head, rounded up to a power of two and to 64; for Hopper, where sums and scores fill
# the registers of a thread and the stages the shared memory.
FORWARD = tuned(
    "sparse.FORWARD",
    {64: Blocks(128, 64, 8, 3), 128: Blocks(128, 128, 8, 3), 256: Blocks(128, 64, 8, 2)},
)
BY_QUERIES = tuned(
    "sparse.BY_QUERIES",
    {64: Blocks(128, 64, 8, 3), 128: Blocks(128, 64, 8, 3), 256: Blocks(128, 32, 8, 2)},
)
BY_KEYS = tuned(
    "sparse.BY_KEYS",
    {64: Blocks(64, 128, 8, 3), 128: Blocks(64, 128, 8, 3), 256: Blocks(32, 64, 8, 2)},
)
FIRST = tuned(
    "sparse.FIRST",
    {64: Blocks(64, 64, 4, 3), 128: Blocks(32, 64, 4, 3), 256: Blocks(32, 64, 8, 2)},
)
FLOAT32 = Blocks(16, 32, 8, 1)  # without tensor cores, which would round


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, origins, window_tokens, n_global):
        n_rows, n_tokens, n_heads, width = q.shape
        ctx.rooms = room_of(k), room_of(v)
        q, k, v = (_aligned(x) for x in (q, k, v))
        y = torch.empty_like(q, memory_format=torch.contiguous_format)
        lse = _empty_statistics(q)
        cut = _cut(FORWARD, q)
        by_queries.sparse_forward[(triton.cdiv(n_tokens, cut.queries), n_heads, n_rows)](
            q, _tiles(k, cut.keys), _tiles(v, cut.keys), origins, y, lse,
            n_tokens, window_tokens, n_global, LOG2_E * width**-0.5,
            *q.stride()[:3], lse.stride(1), **_options(cut, q, k),
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, origins, y, lse)
        ctx.limits = window_tokens, n_global
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_y):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, origins, y, lse = ctx.saved_tensors
        d_y = d_y.contiguous()
        d_y.new_zeros(1)  # a launch gives autograd's thread the context that descriptors need
        d_q, delta = _differentiate_by_queries(q, k, v, origins, y, d_y, lse, ctx.limits)
        d_k, d_v = map(make_room, ctx.rooms, (k, v))
        _differentiate_by_keys(q, k, v, origins, d_y, lse, delta, (d_k, d_v), ctx.limits)
        return d_q, d_k, d_v, None, None, None


def _differentiate_by_queries(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    origins: Tensor,
    y: Tensor,
    d_y: Tensor,
    lse: Tensor,
    limits: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Give the gradient, and for each head and token the sum of y d_y."""
    n_rows, n_tokens, n_heads, width = q.shape
    delta, d_q = _empty_statistics(q), torch.empty_like(y)
    cut, scale = _cut(BY_QUERIES, q), width**-0.5
    by_queries.sparse_backward_queries[(triton.cdiv(n_tokens, cut.queries), n_heads, n_rows)](
        q, _tiles(k, cut.keys), _tiles(v, cut.keys), origins, y, d_y, lse, delta, d_q,
        n_tokens, *limits, LOG2_E * scale, scale,
        *q.stride()[:3], lse.stride(1), **_options(cut, q, k),
    )  # fmt: skip
    return d_q, delta


def _differentiate_by_keys(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    origins: Tensor,
    d_y: Tensor,
    lse: Tensor,
    delta: Tensor,
    gradients: tuple[Tensor, Tensor],
    limits: tuple[int, int],
) -> None:
    """Write the gradients of keys and values."""
    n_rows, n_tokens, n_heads, width = k.shape
    window_tokens, n_global = limits
    scale, ends = width**-0.5, document_ends(origins)
    first_chunk = triton.cdiv(window_tokens, CHUNK_TOKENS)
    n_chunks = max(0, triton.cdiv(n_tokens, CHUNK_TOKENS) - first_chunk)
    cut = _cut(FIRST, q)
    n_blocks = triton.cdiv(n_global, cut.keys)
    shape = 2, n_rows, n_chunks, n_heads, n_blocks * cut.keys, width
    far = torch.empty(shape, dtype=torch.float32, device=k.device)
    if far.numel() > 0:
        by_keys.sparse_backward_first[(n_chunks, n_heads, n_rows * n_blocks)](
            _tiles(q, cut.queries), k, v, origins, ends, _tiles(d_y, cut.queries),
            _spans(lse, cut.queries), _spans(delta, cut.queries), far,
            n_tokens, *limits, first_chunk, LOG2_E * scale,
            *k.stride()[:3], *v.stride()[:3],
            N_BLOCKS=n_blocks, CHUNK=CHUNK_TOKENS, **_options(cut, q, k),
        )  # fmt: skip
    d_k, d_v = gradients
    cut = _cut(BY_KEYS, q)
    by_keys.sparse_backward_keys[(triton.cdiv(n_tokens, cut.keys), n_heads, n_rows)](
        _tiles(q, cut.queries), k, v, origins, ends, _tiles(d_y, cut.queries),
        _spans(lse, cut.queries), _spans(delta, cut.queries), far, d_k, d_v,
        n_tokens, *limits, first_chunk, n_chunks, shape[4], LOG2_E * scale, scale,
        *k.stride()[:3], *v.stride()[:3], *d_k.stride()[:3], *d_v.stride()[:3],
        CHUNK=CHUNK_TOKENS, **_options(cut, q, k),
    )  # fmt: skip


def _aligned(x: Tensor) -> Tensor:
    """Copy what the copy engine cannot read: it asks for multiples of 16 bytes between vectors."""
    steps = (x.data_ptr(), *(step * x.element_size() for step in x.stride()[:3]))
    return x if x.stride(3) == 1 and all(n > 0 and n % 16 == 0 for n in steps) else x.contiguous()


def _empty_statistics(q: Tensor) -> Tensor:
    """Make room for a number to each head and token, each head's aligned like `_aligned`."""
    n_rows, n_tokens, n_heads, _ = q.shape
    shape = n_rows, n_heads, triton.cdiv(n_tokens, 4) * 4
    return torch.empty(shape, dtype=torch.float32, device=q.device)[..., :n_tokens]


def _tiles(x: Tensor, n_tokens: int) -> TensorDescriptor:
    """Tell the copy engine to take `n_tokens` of a head at a time from (B, T, H, D)."""
    return TensorDescriptor.from_tensor(x.transpose(1, 2), [1, 1, n_tokens, _padded(x)])


def _spans(x: Tensor, n_tokens: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(x, [1, 1, n_tokens])


def _cut(table: dict[int, Blocks], q: Tensor) -> Blocks:
    return FLOAT32 if q.dtype == torch.float32 else table[max(64, _padded(q))]


def _padded(x: Tensor) -> int:
    return triton.next_power_of_2(x.shape[-1])


def _options(cut: Blocks, q: Tensor, k: Tensor) -> dict[str, int | None]:
    return {
        "GROUP": q.shape[2] // k.shape[2],
        "D": q.shape[3],
        "BD": _padded(q),
        "BQ": cut.queries,
        "BK": cut.keys,
        "num_warps": cut.n_warps,
        "num_stages": cut.n_stages,
        "maxnreg": cut.n_registers,
    }


def sparse(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T M D"],
    v: Float[Tensor, "B T M D"],
    positions: Int64[Tensor, "B T"],
    memory: blocked.SparseMemory | None = None,
    *,
    window_tokens: int,
    n_global: int,
    is_continued: bool = True,
) -> tuple[Float[Tensor, "B T H D"], blocked.SparseMemory]:
    """Compute sparse.sparse_reference from the first token on; continuations go to our own form."""
    limits = {"window_tokens": window_tokens, "n_global": n_global}
    width = q.shape[3]
    is_untried = q.is_cuda and q.dtype == torch.float32 and width < LEAST_FLOAT32
    fits = q.shape[1] >= SHORT_TOKENS and width % 16 == 0 and width <= WIDEST
    if memory is not None or is_untried or not fits:
        return blocked.sparse_blocked(
            q, k, v, positions, memory, is_continued=is_continued, **limits
        )
    origins = document_origins(positions).int()
    y = _Sparse.apply(q, k, v, origins, window_tokens, n_global)
    return y, blocked.remember(k, v, positions, is_continued=is_continued, **limits)


def document_ends(origins: Int32[Tensor, "B T"]) -> Int32[Tensor, "B T"]:
    """Say where on the row each token's document ends; origins never fall along a row."""
    return torch.searchsorted(origins, origins, right=True, out_int32=True)
