"""Adapters to PyTorch's FlexAttention: masks by document, window and first tokens, in blocks.

Dims: B batch, T time, H query heads, M key and value heads, D width of a head.
Source: torch.nn.attention.flex_attention; Dong et al. 2024, arXiv:2412.05496.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from helix.kernels import attention as dense
from helix.kernels import sparse as blocked

if not torch.cuda.is_available():
    raise ImportError("no CUDA device")

compiled_attention = torch.compile(flex_attention, dynamic=False)
compiled_mask = torch.compile(create_block_mask, dynamic=False)
SHORT_TOKENS = 128  # one block of FlexAttention; shorter or continued rows take the dense forms
LEAST_WIDTH = 16  # of a head that it takes; narrower ones take the dense forms, too


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
    if memory is not None or not fits(q):
        return blocked.sparse_blocked(
            q, k, v, positions, memory, is_continued=is_continued, **limits
        )
    origins = dense.document_origins(positions)

    # Lambdas, because tests wrap every def of ours in a check of its types, which does not compile.
    mask = make_mask(
        lambda b, h, i, j: (
            (origins[b, i] == origins[b, j])
            & (i >= j)
            & ((i - j < window_tokens) | (positions[b, j] < n_global))
        ),
        q,
    )
    left = blocked.remember(k, v, positions, is_continued=is_continued, **limits)
    return attend(q, k, v, mask), left


def attention(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T M D"],
    v: Float[Tensor, "B T M D"],
    positions: Int64[Tensor, "B T"],
    memory: dense.AttentionMemory | None = None,
) -> tuple[Float[Tensor, "B T H D"], dense.AttentionMemory]:
    """Compute attention.attention_reference from the first token on; see `sparse`."""
    if memory is not None or not fits(q):
        return dense.attention(q, k, v, positions, memory)
    origins = dense.document_origins(positions)

    mask = make_mask(lambda b, h, i, j: (origins[b, i] == origins[b, j]) & (i >= j), q)
    return attend(q, k, v, mask), dense.AttentionMemory(k, v, positions[:, -1])


def fits(q: Float[Tensor, "B T H D"]) -> bool:
    """Tell whether FlexAttention takes rows and heads of these sizes.

    It is compiled for each shape, and past eight of them PyTorch falls back on a form that holds
    all scores. Training has one; where no gradient is formed there are many, of short pieces.
    """
    is_large = q.shape[1] >= SHORT_TOKENS and q.shape[3] >= LEAST_WIDTH
    return is_large and torch.is_grad_enabled()


def attend(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T M D"],
    v: Float[Tensor, "B T M D"],
    mask: BlockMask,
) -> Float[Tensor, "B T H D"]:
    """Attend where a block mask allows."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    y = compiled_attention(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
    return y.transpose(1, 2)


def make_mask(
    is_heard: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], q: Float[Tensor, "B T H D"]
) -> BlockMask:
    """Find the blocks in which any query hears any key, the same for all heads.

    Args:
        is_heard: Of row, head, query and key.
    """
    n_tokens = q.shape[1]
    return compiled_mask(is_heard, q.shape[0], None, n_tokens, n_tokens, device=q.device)
