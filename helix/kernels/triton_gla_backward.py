"""Gradients of queries, keys and decays of gated linear attention, chunk by chunk.

A token's decay scales all that was written before it and is read from it on, so its gradient is
the sum over the later tokens of q d_q - k d_k, and of all that leaves the chunk for the state.

Dims: B batch, T time, H heads, K key width, D the power of two that holds it, V value width, n
chunks, C tokens of a chunk.
"""

from typing import no_type_check

import triton
import triton.language as tl

from helix.kernels.triton_gla_forward import add_up, dot, locate, take


@triton.jit
@no_type_check
def pull_through(
    v, d_y, before, after, v_row, v_token, y_row, y_token, row, first, head, tile, i, is_token,
    channel, V: tl.constexpr, V_KEPT: tl.constexpr, BV: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Sum over all values what their gradients ask of scores and of the state.

    Nothing but products uses what is loaded: else Triton 3.6 gives it a single buffer, and on
    Hopper fills that anew while products may still read it. So the state meets its gradient in a
    product too, of which only the diagonal counts.

    Returns:
        The gradients of the scores, of what reads the state, of what writes it; and the state
        before the chunk times the gradient of that behind it, by channel.
    """
    row_channel, column_channel = channel[:, None], channel[None, :]
    d_scores = tl.zeros([i.shape[0], i.shape[0]], tl.float32)
    d_reads = tl.zeros([i.shape[0], channel.shape[0]], tl.float32)
    d_writes = tl.zeros([i.shape[0], channel.shape[0]], tl.float32)
    carried = tl.zeros([channel.shape[0], channel.shape[0]], tl.float32)
    for begin in range(0, V, BV):
        value = begin + tl.arange(0, BV)[None, :]
        inside = is_token[:, None] & (value < V)
        given = take(d_y, y_row, y_token, row, first, head * V, i, value, inside)
        values = take(v, v_row, v_token, row, first, head * V, i, value, inside)
        at = tile * D * V_KEPT + (row_channel * V_KEPT + value)
        state, d_state = tl.load(before + at), tl.load(after + at)
        d_scores = dot(given, tl.trans(values), d_scores)
        d_reads = dot(given, tl.trans(state), d_reads)
        d_writes = dot(values, tl.trans(d_state), d_writes)
        carried = dot(state, tl.trans(d_state), carried)
    carried = tl.sum(tl.where(row_channel == column_channel, carried, 0.0), 0)
    return d_scores, d_reads, d_writes, carried


@triton.jit
@no_type_check
def lay(of_row, of_token, row, first, head, i, channel, K: tl.constexpr):
    """Tell where a chunk's channels lie in a gradient of such strides."""
    return row * of_row + first * of_token + head * K + (i * of_token + channel[None, :])


@triton.jit
@no_type_check
def trace_decays(d_since, leaves, heard, later, last, begins):
    """Give each decay the gradients of all the sums it is in.

    Args:
        leaves: By channel, of what goes to the state through all decays of the last document.
    """
    d_g = add_up(tl.trans(heard), d_since) + tl.where(later == last, leaves[None, :], 0.0)
    return tl.where(begins == 0, d_g, 0.0)


@triton.jit(do_not_specialize=["n_tokens"])
@no_type_check
def differentiate(  # noqa: PLR0915 - one pass over a chunk's tokens
    q, k, log_decay, starts, numbers, past, v, d_y, before, after, across, d_q, d_k, d_log_decay,
    d_scores, n_tokens, scale,
    q_row, q_token, k_row, k_token, g_row, g_token, v_row, v_token, y_row, y_token,
    dq_row, dq_token, dk_row, dk_token, dg_row, dg_token,
    K: tl.constexpr, D: tl.constexpr, BK: tl.constexpr, V: tl.constexpr, V_KEPT: tl.constexpr,
    BV: tl.constexpr, C: tl.constexpr, CENTRE: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a chunk's queries, keys and decays, of BK channels of one head.

    Args:
        before: The state before each chunk.
        after: The gradient of the state behind each chunk.
        d_scores: Room for C x C numbers of each program.
    """
    n_blocks: tl.constexpr = D // BK
    chunk, head, row, tile, place = locate(n_blocks)
    token, first = tl.arange(0, C), chunk.to(tl.int64) * C
    i, j = token[:, None], token[None, :]
    is_token = chunk * C + token < n_tokens
    block = tl.program_id(0) % n_blocks
    channel = block * BK + tl.arange(0, BK)
    met, d_reads, d_writes, carried = pull_through(
        v, d_y, before, after, v_row, v_token, y_row, y_token, row, first, head, tile, i, is_token,
        channel, V, V_KEPT, BV, D,
    )  # fmt: skip
    number = tl.load(numbers + place * C + token)
    later, earlier = number[:, None], number[None, :]
    last = tl.load(numbers + place * C + C - 1)
    # through memory and back: where a product takes from registers what another left there, turned
    # over, Triton before 3.7.1 is said to err on Hopper (fla-org/flash-linear-attention, issue 640)
    d_scores += (tile * n_blocks + block) * C * C + (i * C + j)
    met = tl.where((later == earlier) & (j <= i), met, 0.0)
    tl.store(d_scores, met.to(d_scores.dtype.element_ty))
    tl.debug_barrier()
    pairs = tl.load(d_scores)

    inside = is_token[:, None] & (channel < K)[None, :]
    begins = tl.load(starts + row * n_tokens + first + token, mask=is_token, other=0)[:, None]
    decays = inside & (begins == 0)
    g = take(log_decay, g_row, g_token, row, first, head * K, i, channel[None, :], decays)
    queries = take(q, q_row, q_token, row, first, head * K, i, channel[None, :], inside)
    keys = take(k, k_row, k_token, row, first, head * K, i, channel[None, :], inside)
    heard = tl.load(past + place * C * C + (i * C + j))
    since = add_up(heard, g)
    passed = tl.sum(tl.where(later == last, g, 0.0), 0)[None, :]
    rise, fall = scale * tl.exp(since + CENTRE), tl.exp(-CENTRE - since)
    late = (queries.to(tl.float32) * rise).to(heard.dtype)
    early = (keys.to(tl.float32) * fall).to(heard.dtype)
    of_late = tl.where(later == 0, d_reads * tl.exp(-CENTRE), 0.0)
    of_late = dot(pairs, early, of_late)
    at = lay(dq_row, dq_token, row, first, head, i, channel, K)
    tl.store(d_q + at, (of_late * rise).to(heard.dtype), mask=inside)
    of_early = tl.where(later == last, d_writes * tl.exp(passed + CENTRE), 0.0)
    leaves = tl.sum(early.to(tl.float32) * of_early, 0)
    leaves += carried * tl.load(across + tile * D + channel)
    of_early = dot(tl.trans(pairs), late, of_early)
    at = lay(dk_row, dk_token, row, first, head, i, channel, K)
    tl.store(d_k + at, (of_early * fall).to(heard.dtype), mask=inside)
    # of the factors as rounded: what queries and keys share then cancels to the last digit
    d_since = late.to(tl.float32) * of_late - early.to(tl.float32) * of_early
    d_g = trace_decays(d_since, leaves, heard, later, last, begins)
    at = lay(dg_row, dg_token, row, first, head, i, channel, K)
    tl.store(d_log_decay + at, d_g, mask=inside)
