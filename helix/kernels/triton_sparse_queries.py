"""What a block of queries hears: the output of sparse attention, and its gradient by queries.

A block hears one stretch of near keys, from the first that any of its queries hears by window and
document; and, where this begins behind the first tokens of the document, those before it. What
comes between is never read. Scores are exponents of 2, and `lse` is the logarithm to base 2 of
their sum, (B, H, T).

Dims: B batch, T time, H query heads, D width of a head, BD the next power of two, BQ queries and
BK keys of a block, GROUP query heads to one of keys.
Source: the softmax in blocks is Dao 2023, arXiv:2307.08691, algorithms 1 and 2.
"""

from typing import no_type_check

import triton
import triton.language as tl

LOWEST: tl.constexpr = tl.constexpr(-1e30)  # finite, as -inf - -inf is no number


@triton.jit
@no_type_check
def load_rows(x, first, step, n_rows, D: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr):
    """Load BT rows from `first` on, zero beyond the last."""
    t, d = tl.arange(0, BT), tl.arange(0, BD)
    kept = (first + t < n_rows)[:, None] & (d < D)[None, :]
    x += first.to(tl.int64) * step
    return tl.load(x + t[:, None] * step + d[None, :], mask=kept, other=0.0)


@triton.jit
@no_type_check
def store_rows(
    x, first, step, values, n_rows, D: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr
):  # fmt: skip
    """Store what `load_rows` loads."""
    t, d = tl.arange(0, BT), tl.arange(0, BD)
    kept = (first + t < n_rows)[:, None] & (d < D)[None, :]
    x += first.to(tl.int64) * step
    tl.store(x + t[:, None] * step + d[None, :], values.to(x.dtype.element_ty), mask=kept)


@triton.jit
@no_type_check
def _bounds(origins, i, window, n_global, BK: tl.constexpr):
    """Find what a block of queries hears.

    Returns:
        Each query's origin; where the first tokens begin, and how many blocks they take; where the
        near keys begin, and how many blocks they take; from which key on, up to the first query,
        all queries hear all keys.
    """
    origin = tl.load(origins + i)
    lowest = tl.maximum(tl.maximum(origin, i - window + 1), 0)
    near = tl.min(lowest)
    start = tl.min(origin)
    far = tl.maximum(start, 0)
    n_far = tl.cdiv(tl.maximum(tl.minimum(start + n_global, near) - far, 0), BK)
    return origin, far, n_far, near, tl.cdiv(tl.max(i) + 1 - near, BK), tl.max(lowest)


@triton.jit
@no_type_check
def _is_heard(i, j, origin, last, window, n_global):
    """Say which keys before `last` each query hears."""
    j = tl.where(j < last, j, 2147483647)[None, :]
    i, origin = i[:, None], origin[:, None]
    return (j <= i) & (j >= origin) & ((j > i - window) | (j < origin + n_global))


@triton.jit(do_not_specialize=["n_tokens", "window", "n_global"])
@no_type_check
def sparse_forward(
    q, k, v, origins, y, lse, n_tokens, window, n_global, scale, q_row, q_token, q_head, lse_head,
    GROUP: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Attend from a block of queries."""
    i0, head, row = tl.program_id(0) * BQ, tl.program_id(1), tl.program_id(2)
    n_heads, of_row = tl.num_programs(1), row.to(tl.int64) * n_tokens
    to, place = i0 + tl.arange(0, BQ), tl.arange(0, BK)
    i = tl.minimum(to, n_tokens - 1)  # beyond the row hears what its last token does
    origin, far, n_far, near, n_near, clear = _bounds(origins + of_row, i, window, n_global, BK)
    q += row.to(tl.int64) * q_row + head.to(tl.int64) * q_head
    queries = load_rows(q, i0, q_token, n_tokens, D, BD, BQ)
    top = tl.full([BQ], LOWEST, tl.float32)
    total = tl.zeros([BQ], tl.float32)
    sums = tl.zeros([BQ, BD], tl.float32)
    for n in tl.range(0, n_far + n_near):
        is_far = n < n_far
        j0 = tl.where(is_far, far + n * BK, near + (n - n_far) * BK)
        keys = k.load([row, head // GROUP, j0, 0]).reshape(BK, BD)
        values = v.load([row, head // GROUP, j0, 0]).reshape(BK, BD)
        scores = tl.dot(queries, keys.T, input_precision="ieee")
        if (j0 < clear) | (j0 + BK > i0 + 1):
            last = tl.where(is_far, near, n_tokens)
            heard = _is_heard(i, j0 + place, origin, last, window, n_global)
            scores = tl.where(heard, scores, -float("inf"))
        higher = tl.maximum(top, tl.max(scores, axis=1) * scale)
        weights = tl.exp2(scores * scale - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(weights, axis=1)
        sums *= shrink[:, None]
        sums = tl.dot(weights.to(values.dtype), values, sums, input_precision="ieee")
        top = higher
    y += (of_row * n_heads + head) * D
    store_rows(y, i0, n_heads * D, sums / total[:, None], n_tokens, D, BD, BQ)
    lse += (row * n_heads + head).to(tl.int64) * lse_head
    tl.store(lse + to, top + tl.log2(total), mask=to < n_tokens)


@triton.jit(do_not_specialize=["n_tokens", "window", "n_global"])
@no_type_check
def sparse_backward_queries(
    q, k, v, origins, y, d_y, lse, delta, d_q, n_tokens, window, n_global, scale, natural_scale,
    q_row, q_token, q_head, lse_head,
    GROUP: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Differentiate by queries, and leave `delta`, the sum of y d_y over a head, for the keys."""
    i0, head, row = tl.program_id(0) * BQ, tl.program_id(1), tl.program_id(2)
    n_heads, of_row = tl.num_programs(1), row.to(tl.int64) * n_tokens
    to, place = i0 + tl.arange(0, BQ), tl.arange(0, BK)
    i = tl.minimum(to, n_tokens - 1)  # beyond the row hears what its last token does
    origin, far, n_far, near, n_near, clear = _bounds(origins + of_row, i, window, n_global, BK)
    at, step = (of_row * n_heads + head) * D, n_heads * D
    d_here = load_rows(d_y + at, i0, step, n_tokens, D, BD, BQ)
    here = load_rows(y + at, i0, step, n_tokens, D, BD, BQ)
    mean = tl.sum(here.to(tl.float32) * d_here.to(tl.float32), axis=1)
    of_head = (row * n_heads + head).to(tl.int64) * lse_head
    tl.store(delta + of_head + to, mean, mask=to < n_tokens)
    top = tl.load(lse + of_head + i)
    q += row.to(tl.int64) * q_row + head.to(tl.int64) * q_head
    queries = load_rows(q, i0, q_token, n_tokens, D, BD, BQ)
    sums = tl.zeros([BQ, BD], tl.float32)
    for n in tl.range(0, n_far + n_near):
        is_far = n < n_far
        j0 = tl.where(is_far, far + n * BK, near + (n - n_far) * BK)
        keys = k.load([row, head // GROUP, j0, 0]).reshape(BK, BD)
        values = v.load([row, head // GROUP, j0, 0]).reshape(BK, BD)
        scores = tl.dot(queries, keys.T, input_precision="ieee")
        d_weights = tl.dot(d_here, values.T, input_precision="ieee")
        weights = tl.exp2(scores * scale - top[:, None])
        if (j0 < clear) | (j0 + BK > i0 + 1):
            last = tl.where(is_far, near, n_tokens)
            heard = _is_heard(i, j0 + place, origin, last, window, n_global)
            weights = tl.where(heard, weights, 0.0)
        d_scores = (weights * (d_weights - mean[:, None])).to(keys.dtype)
        sums = tl.dot(d_scores, keys, sums, input_precision="ieee")
    store_rows(d_q + at, i0, step, sums * natural_scale, n_tokens, D, BD, BQ)
