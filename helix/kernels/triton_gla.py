"""Gated linear attention on a GPU: chunks at once, inside as matrix products, then one walk.

Documents are told apart by who may hear whom, never by a strong decay: nothing of one is in the
sums of another.

Dims: B batch, T time, H heads, K key width, D the power of two from 64 that holds it, V value
width, n chunks, C tokens of a chunk.
"""

from typing import NamedTuple

import torch
import triton
from jaxtyping import Bool, Float, Float32, Int32, UInt8
from torch import Tensor

from helix.kernels.devices import require_cuda
from helix.kernels.gla import gla_chunked
from helix.kernels.parts import make_room, room_of
from helix.kernels.triton_gla_backward import differentiate
from helix.kernels.triton_gla_forward import mark_documents, relate_tokens
from helix.kernels.triton_gla_strong import differentiate_strong, relate_strong
from helix.kernels.triton_gla_walk import walk
from helix.kernels.tuned import tuned

require_cuda()

SHORT_TOKENS = 64  # below this, launching the kernels costs more than they compute
CHUNK_TOKENS = 64
WIDEST_KEY = 256  # of those whose state the registers of one program hold
# Narrower keys are filled up with zeros. Of products with fewer columns, ptxas 12.8 takes the plain
# address of an operand for its descriptor, and reads outside the shared memory.
LEAST_KEY = 64
STATE_CELLS = 128 * 64  # of keys by values, that fit there beside all else

# Factors lie between exp(-60) and exp(60): a gradient of 1e-11 times the one stays above float32's
# least number, keys times the other far below its greatest. A token may forget 1.4 nats on average,
# more than untrained gates do, before a chunk falls below DEEPEST.
CENTRE, DEEPEST = 30.0, -90.0


class Launch(NamedTuple):
    """How a kernel is cut and compiled; blocks of key channels and of values, where it has any."""

    num_warps: int
    num_stages: int
    keys: int = 0
    values: int = 0
    maxnreg: int | None = None

    def options(self, width: int) -> dict:
        """Give what Triton's compiler is told, for blocks of key channels of that width.

        Products of fewer than 64 rows, a warp group's least, take operands from registers, which
        Triton's pipeline of loads does not wait for: so there is none.
        """
        n_stages = self.num_stages if width >= 64 else 1
        return {"num_warps": self.num_warps, "num_stages": n_stages, "maxnreg": self.maxnreg}


RELATE = tuned("gla.RELATE", Launch(num_warps=4, num_stages=1, keys=32))
WALK = tuned("gla.WALK", Launch(num_warps=4, num_stages=2, values=64))
DIFFERENTIATE = tuned("gla.DIFFERENTIATE", Launch(num_warps=4, num_stages=3, keys=64, values=64))
# most programs only ask and go
STRONG = tuned("gla.STRONG", Launch(num_warps=4, num_stages=1, maxnreg=128))


class Documents(NamedTuple):
    """Where documents begin, and what that means inside chunks.

    Attributes:
        starts: 1 at the first token of a document.
        numbers: Of the token's document, counted in the chunk; 0 began before it.
        past: 1 where the row's token hears the column's.
    """

    starts: UInt8[Tensor, "B T"]
    numbers: Int32[Tensor, "B n C"]
    past: Float[Tensor, "B n C C"]


class Related(NamedTuple):
    """What the tokens of a chunk are to each other and to the state.

    Attributes:
        scores: What the row's token hears of the column's.
        reads: What a token reads the state before its chunk with.
        writes: What a token writes into the state behind its chunk.
        across: What a chunk leaves of the state before it.
        strong: 1 where a chunk's decays fell too deep for one product.
    """

    scores: Float[Tensor, "B H n C C"]
    reads: Float[Tensor, "B H n C D"]
    writes: Float[Tensor, "B H n C D"]
    across: Float32[Tensor, "B H n D"]
    strong: Int32[Tensor, "B H n"]


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
    """Compute gla.gla_reference on the GPU; `chunk_tokens` is that of the PyTorch form.

    Which takes short inputs, wide keys, and what is not bfloat16 throughout: no tensor core
    multiplies float32 whole, so that the kernels take it under the interpreter alone.
    """
    whole = v.dtype == torch.float32 and not v.is_cuda
    fits = q.dtype == k.dtype == v.dtype and (whole or v.dtype == torch.bfloat16)
    if not fits or q.shape[1] < SHORT_TOKENS or q.shape[3] > WIDEST_KEY:
        return gla_chunked(q, k, v, log_decay, starts, state, chunk_tokens=chunk_tokens)
    inputs = (q, k, v, log_decay.float(), state if state is None else state.float())
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    return _GLA.apply(*inputs, starts, keep)


class _GLA(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, log_decay, state, starts, keep):
        rooms = [room_of(x) for x in (q, k, v, log_decay)]
        q, k, v, log_decay = (_in_whole_tokens(x) for x in (q, k, v, log_decay))
        documents = _mark(starts, q.dtype)
        related = _relate(q, k, log_decay, documents)
        initial = state if state is None else state.contiguous()
        y = torch.empty_like(v, memory_format=torch.contiguous_format)
        before, final = _walk(v, y, related, initial, q.shape[-1], back=False, keep=keep)
        if keep:
            ctx.rooms = rooms
            ctx.save_for_backward(q, k, log_decay, v, before, *documents, *related)
            ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_y, d_final):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, log_decay, v, before, *rest = ctx.saved_tensors
        documents, related = Documents(*rest[:3]), Related(*rest[3:])
        d_y = torch.zeros_like(v) if d_y is None else _in_whole_tokens(d_y)
        d_final = d_final if d_final is None else d_final.contiguous()
        inputs = (q, k, v, log_decay)
        d_q, d_k, d_v, d_log_decay = map(make_room, ctx.rooms, inputs)
        after, d_state = _walk(d_y, d_v, related, d_final, q.shape[-1], back=True, keep=True)
        gradients = (d_q, d_k, d_log_decay)
        _differentiate((q, k, log_decay), gradients, documents, (v, d_y), (before, after), related)
        return d_q, d_k, d_v, d_log_decay, d_state if ctx.needs_input_grad[4] else None, None, None


def _mark(starts, dtype):
    n_rows, n_tokens = starts.shape
    n_chunks, chunk = triton.cdiv(n_tokens, CHUNK_TOKENS), CHUNK_TOKENS
    documents = Documents(
        starts=starts.contiguous().view(torch.uint8),
        numbers=starts.new_empty(n_rows, n_chunks, chunk, dtype=torch.int32),
        past=starts.new_empty(n_rows, n_chunks, chunk, chunk, dtype=dtype),
    )
    mark_documents[(n_chunks, n_rows)](*documents, n_tokens, C=chunk, num_warps=4)
    return documents


def _relate(q, k, log_decay, documents):
    n_rows, n_tokens, n_heads, d_key = q.shape
    n_chunks, width, chunk = documents.numbers.shape[1], _padded_key(d_key), CHUNK_TOKENS
    tiles = (n_rows, n_heads, n_chunks)
    related = Related(
        scores=q.new_empty(*tiles, chunk, chunk),
        reads=q.new_empty(*tiles, chunk, width),
        writes=q.new_empty(*tiles, chunk, width),
        across=log_decay.new_empty(*tiles, width),
        strong=documents.numbers.new_empty(tiles),
    )
    strides = (*q.stride()[:2], *k.stride()[:2], *log_decay.stride()[:2])
    grid, widths = (n_chunks, n_heads, n_rows), {"K": d_key, "D": width, "C": chunk}
    relate_tokens[grid](
        q, k, log_decay, *documents, *related, n_tokens, d_key**-0.5, *strides,
        **widths, BK=_block(width, RELATE.keys), CENTRE=CENTRE, DEEPEST=DEEPEST,
        **RELATE.options(width),
    )  # fmt: skip
    relate_strong[grid](
        q, k, log_decay, documents.starts, documents.numbers,
        related.scores, related.writes, related.strong, n_tokens, d_key**-0.5, *strides,
        **widths, **STRONG.options(width),
    )  # fmt: skip
    return related


def _walk(x, y, related, initial, d_key, *, back, keep):
    n_rows, n_tokens, n_heads, d_value = x.shape
    n_chunks, width = related.across.shape[2:]
    block, kept_width = _walked_values(d_value, width), _kept_width(d_value)
    kept = x.new_empty(n_rows, n_heads, n_chunks, width, kept_width) if keep else None
    final = related.across.new_empty(n_rows, n_heads, d_key, d_value)
    reads, writes = related.reads, related.writes
    if back:
        reads, writes = writes, reads
    walk[(kept_width // block * n_rows * n_heads,)](
        x, related.scores, reads, writes, related.across, initial, y, kept, final,
        n_tokens, n_chunks, n_heads, *x.stride()[:2], *y.stride()[:2],
        K=d_key, D=width, V=d_value, V_KEPT=kept_width, BV=block, C=CHUNK_TOKENS, BACK=back,
        **WALK.options(width),
    )  # fmt: skip
    return kept, final


def _differentiate(inputs, gradients, documents, outputs, states, related):
    q, k, log_decay = inputs
    v, d_y = outputs
    n_rows, n_tokens, n_heads, d_key = q.shape
    n_chunks, width = related.across.shape[2:]
    d_value, chunk, block = v.shape[3], CHUNK_TOKENS, _block(width, DIFFERENTIATE.keys)
    n_programs = n_chunks * width // block
    d_scores = q.new_empty(n_rows, n_heads, n_programs, chunk, chunk)
    given = (q, k, log_decay, *documents, v, d_y, *states, related.across)
    told = (q, k, log_decay, v, d_y, *gradients)
    strides = [x.stride(axis) for x in told for axis in (0, 1)]
    widths = {"K": d_key, "D": width, "BK": block, "V": d_value, "V_KEPT": states[0].shape[-1]}
    widths |= {"BV": _block(d_value, DIFFERENTIATE.values), "C": chunk}
    differentiate[(n_programs, n_heads, n_rows)](
        *given, *gradients, d_scores, n_tokens, d_key**-0.5, *strides,
        **widths, CENTRE=CENTRE, **DIFFERENTIATE.options(block),
    )  # fmt: skip
    differentiate_strong[(n_chunks, n_heads, n_rows)](
        *given, related.strong, *gradients, n_tokens, d_key**-0.5, *strides,
        **widths, **STRONG.options(width),
    )  # fmt: skip


def _in_whole_tokens(x):
    """Give x with all channels of a token in one piece; a slice of a projection passes."""
    return x if x.stride(3) == 1 and x.stride(2) == x.shape[3] else x.contiguous()


def _block(width, most):
    """Give the power of two that holds a width, from 16, the least of a product, to `most`."""
    return max(16, min(triton.next_power_of_2(width), most))


def _padded_key(d_key):
    return _block(max(d_key, LEAST_KEY), WIDEST_KEY)


def _walked_values(d_value, width):
    return _block(d_value, min(WALK.values, STATE_CELLS // width))


def _kept_width(d_value):
    widest = _block(d_value, max(WALK.values, DIFFERENTIATE.values))
    return triton.cdiv(d_value, widest) * widest
