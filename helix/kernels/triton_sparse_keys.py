"""What hears a block of keys: the gradient of sparse attention by keys and values.

A key is heard by one stretch of queries, which begins at itself and ends with its document, its
window, or, if it is a first token, with the chunk of queries in which its window ends. What first
tokens are given by later chunks is summed a chunk at a time, before; so no program walks a long
document from end to end.

Dims: B batch, T time, H query heads, M key and value heads, D width of a head, BD the next power of
two, BQ queries and BK keys of a block, C chunks, F first tokens in whole blocks, GROUP H / M.
"""

from typing import no_type_check

import triton
import triton.language as tl

from helix.kernels.triton_sparse_queries import load_rows, store_rows


@triton.jit
@no_type_check
def _gather(
    d_keys, d_values, keys, values, j, limit, q, d_y, lse, delta, row, head, first, scale,
    GROUP: tl.constexpr, BD: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """Add what a group of query heads, from the query `first` on, gives to a block of keys.

    Args:
        limit: Where the queries end that hear each key.
    """
    lowest, highest = tl.max(j), tl.min(limit)
    place = tl.arange(0, BQ)
    for h in tl.range(head * GROUP, head * GROUP + GROUP):
        for n in tl.range(0, tl.cdiv(tl.max(limit) - first, BQ)):
            i0 = first + n * BQ
            queries = q.load([row, h, i0, 0]).reshape(BQ, BD)
            d_here = d_y.load([row, h, i0, 0]).reshape(BQ, BD)
            top = lse.load([row, h, i0]).reshape(BQ)
            mean = delta.load([row, h, i0]).reshape(BQ)
            scores = tl.dot(keys, queries.T, input_precision="ieee")
            d_weights = tl.dot(values, d_here.T, input_precision="ieee")
            weights = tl.exp2(scores * scale - top[None, :])
            if (i0 < lowest) | (i0 + BQ > highest):
                i = (i0 + place)[None, :]
                weights = tl.where((i >= j[:, None]) & (i < limit[:, None]), weights, 0.0)
            d_values = tl.dot(weights.to(d_here.dtype), d_here, d_values, input_precision="ieee")
            d_scores = (weights * (d_weights - mean[None, :])).to(queries.dtype)
            d_keys = tl.dot(d_scores, queries, d_keys, input_precision="ieee")
    return d_keys, d_values


@triton.jit(do_not_specialize=["n_tokens", "window", "n_global", "first_chunk"])
@no_type_check
def sparse_backward_first(
    q, k, v, origins, ends, d_y, lse, delta, far, n_tokens, window, n_global, first_chunk, scale,
    k_row, k_token, k_head, v_row, v_token, v_head,
    GROUP: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
    N_BLOCKS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Leave in `far` what a chunk gives to the first tokens too far behind its first query.

    They are of one document, as what begins within the chunk is not behind that query. `far` holds
    gradients of keys and of values, (2, B, C, M, F, D), in float32.
    """
    chunk, head = tl.program_id(0), tl.program_id(1)
    row, block = tl.program_id(2) // N_BLOCKS, tl.program_id(2) % N_BLOCKS
    n_chunks, n_heads, n_rows = tl.num_programs(0), tl.num_programs(1), tl.num_programs(2)
    first = (chunk + first_chunk) * CHUNK
    of_row, of_head = row.to(tl.int64), head.to(tl.int64)
    origin = tl.load(origins + of_row * n_tokens + first)
    end = tl.load(ends + of_row * n_tokens + first)
    j0 = tl.maximum(origin, 0) + block * BK
    j = j0 + tl.arange(0, BK)
    is_far = j < tl.minimum(origin + n_global, first - window + 1)
    limit = tl.where(is_far, tl.minimum(end, first + CHUNK), 0)
    keys = load_rows(k + of_row * k_row + of_head * k_head, j0, k_token, n_tokens, D, BD, BK)
    values = load_rows(v + of_row * v_row + of_head * v_head, j0, v_token, n_tokens, D, BD, BK)
    d_keys = tl.zeros([BK, BD], tl.float32)
    d_values = tl.zeros([BK, BD], tl.float32)
    d_keys, d_values = _gather(
        d_keys, d_values, keys, values, j, limit, q, d_y, lse, delta, row, head, first, scale,
        GROUP, BD, BQ,
    )  # fmt: skip
    n_places = N_BLOCKS * BK
    far += ((of_row * n_chunks + chunk) * n_heads + head) * n_places * D
    store_rows(far, block * BK, D, d_keys, n_places, D, BD, BK)
    far += (n_rows // N_BLOCKS).to(tl.int64) * n_chunks * n_heads * n_places * D
    store_rows(far, block * BK, D, d_values, n_places, D, BD, BK)


@triton.jit(do_not_specialize=["n_tokens", "window", "n_global", "first_chunk", "n_chunks"])
@no_type_check
def sparse_backward_keys(
    q, k, v, origins, ends, d_y, lse, delta, far, d_k, d_v, n_tokens, window, n_global,
    first_chunk, n_chunks, n_places, scale, natural_scale,
    k_row, k_token, k_head, v_row, v_token, v_head,
    dk_row, dk_token, dk_head, dv_row, dv_token, dv_head,
    GROUP: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """Differentiate by keys and values, taking up what `sparse_backward_first` left."""
    j0, head, row = tl.program_id(0) * BK, tl.program_id(1), tl.program_id(2)
    n_heads, n_rows = tl.num_programs(1), tl.num_programs(2)
    of_row, of_head = row.to(tl.int64), head.to(tl.int64)
    origins += of_row * n_tokens
    ends += of_row * n_tokens
    j = j0 + tl.arange(0, BK)
    inside = j < n_tokens
    is_first = j < tl.load(origins + j, mask=inside, other=0) + n_global
    past = tl.where(is_first, tl.cdiv(j + window, CHUNK) * CHUNK, j + window)
    limit = tl.minimum(tl.load(ends + j, mask=inside, other=0), past)
    keys = load_rows(k + of_row * k_row + of_head * k_head, j0, k_token, n_tokens, D, BD, BK)
    values = load_rows(v + of_row * v_row + of_head * v_head, j0, v_token, n_tokens, D, BD, BK)
    # only the block's last document can be heard from chunks that begin behind the block
    last = tl.minimum(j0 + BK, n_tokens) - 1
    origin = tl.load(origins + last)
    start = tl.maximum(origin, 0)
    n_begun = tl.cdiv(tl.load(ends + last), CHUNK)
    n_begun = tl.where((n_global > 0) & (origin + n_global > j0), n_begun, 0)
    d = tl.arange(0, BD)
    at = (j - start)[:, None] * D + d[None, :]
    kept = ((j >= start) & (j < origin + n_global))[:, None] & (d < D)[None, :]
    of_values = n_rows.to(tl.int64) * n_chunks * n_heads * n_places * D
    d_keys = tl.zeros([BK, BD], tl.float32)
    d_values = tl.zeros([BK, BD], tl.float32)
    for chunk in tl.range(tl.cdiv(start + window, CHUNK), n_begun):
        given = far + ((of_row * n_chunks + chunk - first_chunk) * n_heads + head) * n_places * D
        d_keys += tl.load(given + at, mask=kept, other=0.0)
        d_values += tl.load(given + of_values + at, mask=kept, other=0.0)
    d_keys, d_values = _gather(
        d_keys, d_values, keys, values, j, limit, q, d_y, lse, delta, row, head, j0, scale,
        GROUP, BD, BQ,
    )  # fmt: skip
    d_k += of_row * dk_row + of_head * dk_head
    d_v += of_row * dv_row + of_head * dv_head
    store_rows(d_k, j0, dk_token, d_keys * natural_scale, n_tokens, D, BD, BK)
    store_rows(d_v, j0, dv_token, d_values, n_tokens, D, BD, BK)
