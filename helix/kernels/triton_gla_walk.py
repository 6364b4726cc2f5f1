"""The walk of gated linear attention from chunk to chunk: forth for outputs, back for gradients.

    forth:  y = scores v + reads S      S <- across S + writes^T v
    back:   d_v = scores^T d_y + writes d_S      d_S <- across d_S + reads^T d_y

Both are one kernel: back, time runs the other way, scores lie transposed, and what reads writes.
A program walks along all chunks with its share of the values; the state never leaves its registers
but for the copy that the gradients want.

Dims: B batch, T time, H heads, K key width, D the power of two that holds it, V value width, n
chunks, C tokens of a chunk.
"""

from typing import no_type_check

import triton
import triton.language as tl

from helix.kernels.triton_gla_forward import dot


@triton.jit(do_not_specialize=["n_tokens", "n_chunks", "n_heads"])
@no_type_check
def walk(  # noqa: PLR0915 - one pass over all chunks
    x, scores, reads, writes, across, initial, y, kept, final,
    n_tokens, n_chunks, n_heads, x_row, x_token, y_row, y_token,
    K: tl.constexpr, D: tl.constexpr, V: tl.constexpr, V_KEPT: tl.constexpr, BV: tl.constexpr,
    C: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """Write y, the state after all chunks and, unless `kept` is None, that which each chunk met.

    Args:
        initial: The state to begin with; None means there is none.
    """
    n_blocks: tl.constexpr = V_KEPT // BV
    row_head = (tl.program_id(0) // n_blocks).to(tl.int64)
    row, head = row_head // n_heads, row_head % n_heads
    token, channel = tl.arange(0, C), tl.arange(0, D)
    value = tl.program_id(0) % n_blocks * BV + tl.arange(0, BV)
    of_value = (value < V)[None, :]
    of_state = (channel < K)[:, None] & of_value
    in_state = row_head * K * V + (channel[:, None] * V + value[None, :])
    state = tl.zeros([D, BV], tl.float32)
    if initial is not None:
        state = tl.load(initial + in_state, mask=of_state, other=0)
    in_keys = token[:, None] * D + channel[None, :]
    in_scores = token[:, None] * C + token[None, :]
    in_kept = channel[:, None] * V_KEPT + value[None, :]
    in_x = token[:, None] * x_token + value[None, :]
    in_y = token[:, None] * y_token + value[None, :]
    x += row * x_row + head * V
    y += row * y_row + head * V
    for step in range(n_chunks):
        chunk = n_chunks - 1 - step if BACK else step
        tile, first = row_head * n_chunks + chunk, chunk.to(tl.int64) * C
        inside = (chunk * C + token < n_tokens)[:, None] & of_value
        decay = tl.load(across + tile * D + channel)
        pairs = tl.load(scores + tile * C * C + in_scores)
        given = tl.load(x + first * x_token + in_x, mask=inside, other=0)
        reading = tl.load(reads + tile * C * D + in_keys)
        writing = tl.load(writes + tile * C * D + in_keys)
        narrow = state.to(given.dtype)
        out = tl.zeros([C, BV], tl.float32)
        out = dot(tl.trans(pairs) if BACK else pairs, given, out)
        out = dot(reading, narrow, out)
        if kept is not None:
            tl.store(kept + tile * D * V_KEPT + in_kept, narrow)
        state = dot(tl.trans(writing), given, state * decay[:, None])
        tl.store(y + first * y_token + in_y, out.to(given.dtype), mask=inside)
    tl.store(final + in_state, state, mask=of_state)
