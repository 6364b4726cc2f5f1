"""What the tokens of a chunk are to each other and to the state, in gated linear attention.

Inside a chunk decays add up from its start, or from the start of the token's document in it:

    D_i = sum of g_r over r <= i        scores_ij = sum over k of q_ik exp(D_ik - D_jk) k_jk

q exp(D + CENTRE) and k exp(-D - CENTRE) meet in one product, as long as no D falls below DEEPEST.
Where one does, the chunk is marked as strong, and triton_gla_strong writes it anew.

Dims: B batch, T time, H heads, K key width, D the power of two that holds it, n chunks, C tokens
of a chunk.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def locate(n_blocks: tl.constexpr):
    """Give chunk, head and row of a program of a grid (n_chunks * n_blocks, H, B), and which chunk
    it is among those of all heads and among those of all rows."""
    n_chunks, n_heads = tl.num_programs(0) // n_blocks, tl.num_programs(1)
    chunk, head, row = tl.program_id(0) // n_blocks, tl.program_id(1), tl.program_id(2).to(tl.int64)
    return chunk, head, row, (row * n_heads + head) * n_chunks + chunk, row * n_chunks + chunk


@triton.jit
@no_type_check
def take(x, x_row, x_token, row, first, begin, i, column, mask):
    """Load columns, counted from `begin`, of a row's tokens, counted from `first`."""
    at = x + row * x_row + first * x_token + begin + (i * x_token + column)
    return tl.load(at, mask=mask, other=0)


@triton.jit
@no_type_check
def dot(a, b, acc):
    """Add a b to `acc`, never in less than the operands' own precision."""
    return tl.dot(a, b, acc=acc, input_precision="ieee")


@triton.jit
@no_type_check
def add_up(which, x):
    """Give sums of rows of a float32 x, each over the rows that a row of `which`, 0 or 1, marks.

    Where `which` is narrow, x goes in two parts, so that 16 of its 24 bits arrive.
    """
    total = tl.zeros([which.shape[0], x.shape[1]], tl.float32)
    high = x.to(which.dtype)
    total = dot(which, high, total)
    if which.dtype != tl.float32:
        total = dot(which, (x - high.to(tl.float32)).to(which.dtype), total)
    return total


@triton.jit(do_not_specialize=["n_tokens"])
@no_type_check
def mark_documents(starts, numbers, past, n_tokens, C: tl.constexpr):
    """Number a chunk's documents, from 0 for that before it, and mark which tokens each hears.

    Time filled up to whole chunks belongs to the last document.
    """
    chunk, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    token = tl.arange(0, C)
    t = chunk * C + token
    begins = tl.load(starts + row * n_tokens + t, mask=t < n_tokens, other=0).to(tl.int32)
    number = tl.cumsum(begins, 0)
    place = row * tl.num_programs(0) + chunk
    tl.store(numbers + place * C + token, number)
    i, j = token[:, None], token[None, :]
    hears = (number[:, None] == number[None, :]) & (j <= i)
    tl.store(past + place * C * C + (i * C + j), hears.to(past.dtype.element_ty))


@triton.jit(do_not_specialize=["n_tokens"])
@no_type_check
def relate_tokens(
    q, k, log_decay, starts, numbers, past, scores, reads, writes, across, strong, n_tokens, scale,
    q_row, q_token, k_row, k_token, g_row, g_token,
    K: tl.constexpr, D: tl.constexpr, BK: tl.constexpr, C: tl.constexpr, CENTRE: tl.constexpr,
    DEEPEST: tl.constexpr,
):  # fmt: skip
    """Write a chunk's scores, and what of it reads the state, writes to it and decays it."""
    chunk, head, row, tile, place = locate(1)
    token, first = tl.arange(0, C), chunk.to(tl.int64) * C
    i, j = token[:, None], token[None, :]
    is_token = chunk * C + token < n_tokens
    begins = tl.load(starts + row * n_tokens + first + token, mask=is_token, other=0)[:, None]
    number = tl.load(numbers + place * C + token)
    later, earlier = number[:, None], number[None, :]
    last = tl.load(numbers + place * C + C - 1)
    heard = tl.load(past + place * C * C + (i * C + j))
    met = tl.zeros([C, C], tl.float32)
    lowest = 0.0
    for begin in range(0, D, BK):
        channel = begin + tl.arange(0, BK)[None, :]
        inside = is_token[:, None] & (channel < K)
        decays = inside & (begins == 0)
        g = take(log_decay, g_row, g_token, row, first, head * K, i, channel, decays)
        queries = take(q, q_row, q_token, row, first, head * K, i, channel, inside)
        keys = take(k, k_row, k_token, row, first, head * K, i, channel, inside)
        since = add_up(heard, g)
        lowest = tl.minimum(lowest, tl.min(since))
        passed = tl.sum(tl.where(later == last, g, 0.0), 0)[None, :]
        late = queries.to(tl.float32) * (scale * tl.exp(since + CENTRE))
        early = keys.to(tl.float32) * tl.exp(-CENTRE - since)
        met = dot(late.to(heard.dtype), tl.trans(early.to(heard.dtype)), met)
        at = tile * C * D + (i * D + channel)
        read = tl.where(later == 0, late * tl.exp(-CENTRE), 0.0)
        tl.store(reads + at, read.to(heard.dtype))
        written = tl.where(later == last, early * tl.exp(passed + CENTRE), 0.0)
        tl.store(writes + at, written.to(heard.dtype))
        tl.store(across + tile * D + channel, tl.where(last == 0, tl.exp(passed), 0.0))
    met = tl.where((later == earlier) & (j <= i), met, 0.0)
    tl.store(scores + tile * C * C + (i * C + j), met.to(heard.dtype))
    tl.store(strong + tile, (lowest < DEEPEST).to(tl.int32))
