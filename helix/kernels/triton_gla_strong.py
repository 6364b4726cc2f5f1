"""Chunks of gated linear attention that forget more than one product of exponentials can tell.

From the chunk's last token back, decays add up towards the later tokens by additions alone, so
that none is lost beside a stronger one. That is many times slower and seldom needed: other chunks
are left as they are.

Dims: B batch, T time, H heads, K key width, D the power of two that holds it, V value width, n
chunks, C tokens of a chunk.
"""

from typing import no_type_check

import triton
import triton.language as tl

from helix.kernels.triton_gla_backward import lay, pull_through, trace_decays
from helix.kernels.triton_gla_forward import add_up, locate, take


@triton.jit
@no_type_check
def of(x, i, here):
    """Give row `here` of x."""
    return tl.sum(tl.where(i == here, x, 0.0), 0)[None, :]


@triton.jit(do_not_specialize=["n_tokens"])
@no_type_check
def relate_strong(
    q, k, log_decay, starts, numbers, scores, writes, strong, n_tokens, scale,
    q_row, q_token, k_row, k_token, g_row, g_token,
    K: tl.constexpr, D: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Write the scores of a strong chunk and what it writes to the state."""
    chunk, head, row, tile, place = locate(1)
    if tl.load(strong + tile) == 0:
        return
    token, first = tl.arange(0, C), chunk.to(tl.int64) * C
    i, channel = token[:, None], tl.arange(0, D)[None, :]
    all_inside = (chunk * C + i < n_tokens) & (channel < K)
    queries = take(q, q_row, q_token, row, first, head * K, i, channel, all_inside).to(tl.float32)
    later = tl.load(numbers + place * C + token)[:, None]
    last = tl.load(numbers + place * C + C - 1)
    behind = tl.zeros([C, D], tl.float32)
    for step in range(C):
        here = C - 1 - step
        own = tl.load(numbers + place * C + here)
        is_token = chunk * C + here < n_tokens
        inside = is_token & (channel < K)
        key = take(k, k_row, k_token, row, first, head * K, here, channel, inside).to(tl.float32)
        met = tl.sum(queries * tl.exp(behind) * key, 1)[:, None] * scale
        met = tl.where((i >= here) & (later == own), met, 0.0)
        tl.store(scores + tile * C * C + (i * C + here), met.to(scores.dtype.element_ty))
        written = tl.where(own == last, key * tl.exp(of(behind, i, C - 1)), 0.0)
        at = tile * C * D + (here * D + channel)
        tl.store(writes + at, written.to(writes.dtype.element_ty))
        begins = tl.load(starts + row * n_tokens + first + here, mask=is_token, other=0)
        decays = inside & (begins == 0)
        g = take(log_decay, g_row, g_token, row, first, head * K, here, channel, decays)
        behind = tl.where(i >= here, behind + g, 0.0)


@triton.jit(do_not_specialize=["n_tokens"])
@no_type_check
def differentiate_strong(  # noqa: PLR0915 - one pass over a chunk's tokens
    q, k, log_decay, starts, numbers, past, v, d_y, before, after, across, strong,
    d_q, d_k, d_log_decay, n_tokens, scale,
    q_row, q_token, k_row, k_token, g_row, g_token, v_row, v_token, y_row, y_token,
    dq_row, dq_token, dk_row, dk_token, dg_row, dg_token,
    K: tl.constexpr, D: tl.constexpr, BK: tl.constexpr, V: tl.constexpr, V_KEPT: tl.constexpr,
    BV: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Write what triton_gla_backward.differentiate does, of a strong chunk and all its channels."""
    chunk, head, row, tile, place = locate(1)
    if tl.load(strong + tile) == 0:
        return
    token, first = tl.arange(0, C), chunk.to(tl.int64) * C
    i, j = token[:, None], token[None, :]
    is_token = chunk * C + token < n_tokens
    number = tl.load(numbers + place * C + token)
    later, earlier = number[:, None], number[None, :]
    last = tl.load(numbers + place * C + C - 1)
    begins = tl.load(starts + row * n_tokens + first + token, mask=is_token, other=0)[:, None]
    heard = tl.load(past + place * C * C + (i * C + j))
    for begin in range(0, D, BK):
        channel = begin + tl.arange(0, BK)
        met, d_reads, d_writes, carried = pull_through(
            v, d_y, before, after, v_row, v_token, y_row, y_token, row, first, head, tile, i,
            is_token, channel, V, V_KEPT, BV, D,
        )  # fmt: skip
        met = tl.where((later == earlier) & (j <= i), met, 0.0)
        inside = is_token[:, None] & (channel < K)[None, :]
        decays = inside & (begins == 0)
        g = take(log_decay, g_row, g_token, row, first, head * K, i, channel[None, :], decays)
        queries = take(q, q_row, q_token, row, first, head * K, i, channel[None, :], inside)
        queries = queries.to(tl.float32) * scale
        keys = take(k, k_row, k_token, row, first, head * K, i, channel[None, :], inside)
        keys = keys.to(tl.float32)
        d_queries = tl.where(later == 0, d_reads * tl.exp(add_up(heard, g)), 0.0)
        d_keys, behind = tl.zeros([C, BK], tl.float32), tl.zeros([C, BK], tl.float32)
        until = tl.zeros([C, BK], tl.float32)
        for step in range(C):
            here = C - 1 - step
            until += tl.where(i == here, of(behind, i, C - 1), 0.0)
            pulled = tl.sum(tl.where(j == here, met, 0.0), 1)[:, None] * tl.exp(behind)
            d_queries += pulled * of(keys, i, here)
            d_keys += tl.where(i == here, tl.sum(pulled * queries, 0)[None, :], 0.0)
            behind = tl.where(i >= here, behind + of(g, i, here), 0.0)
        d_writes = tl.where(later == last, d_writes * tl.exp(until), 0.0)
        leaves = tl.sum(keys * d_writes, 0) + carried * tl.load(across + tile * D + channel)
        d_keys += d_writes
        d_since = queries * d_queries - keys * d_keys
        d_g = trace_decays(d_since, leaves, heard, later, last, begins)
        at = lay(dq_row, dq_token, row, first, head, i, channel, K)
        tl.store(d_q + at, (d_queries * scale).to(heard.dtype), mask=inside)
        at = lay(dk_row, dk_token, row, first, head, i, channel, K)
        tl.store(d_k + at, d_keys.to(heard.dtype), mask=inside)
        at = lay(dg_row, dg_token, row, first, head, i, channel, K)
        tl.store(d_log_decay + at, d_g, mask=inside)
