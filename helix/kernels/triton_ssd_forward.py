"""The forward kernels of Mamba-2's scan: decays, the walk of the state, outputs.

Decay is one number per token and head. Its logarithms, to the base of 2, are added up within a
document and a chunk, from the chunk's or the document's first token on, so that no document enters
another's sums. The later sum less the earlier is what decays between two tokens: at most 0, and
exact to float32's rounding of the sums, 6e-8 of what decays in a chunk. A token that forgets all
adds no more than that takes, or the sums after it would keep few digits.

Dims: B batch, T time, S time filled up to whole chunks, n chunks, C tokens of a chunk, H heads,
P width of a head, G groups of heads, N width of the state; i tokens that hear, j that are heard.
Source: Dao and Gu 2024, arXiv:2405.21060, section 6.
"""

from typing import no_type_check

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
FORGOTTEN = tl.constexpr(-150.0)  # 2 to this is 0 in float32: what decays more decays no further
# float32 in three products of tf32, which keep 22 of its 24 bits: "ieee" has no tensor cores, and
# its operands overflow the registers. bfloat16 is not touched
PRECISION = tl.constexpr("tf32x3")
# plain numbers, so that other shapes are no reason to compile again
COUNTS = ["n_chunks", "n_heads", "n_groups", "n_parts", "heads", "heads_of_group", "overlaps"]


@triton.jit
@no_type_check
def load_rows(base, i, stride, k, mask, K: tl.constexpr):
    """Load rows i of a matrix whose columns lie side by side; zeros outside."""
    inside = mask[:, None] & (k < K)[None, :]
    return tl.load(base + i[:, None] * stride + k[None, :], mask=inside, other=0.0)


@triton.jit
@no_type_check
def find_block(n_heads, n_groups, heads, BLOCK: tl.constexpr, C: tl.constexpr):
    """Tell a program its first token in the chunk, split of heads, chunk, group and row."""
    blocks: tl.constexpr = C // BLOCK
    n_splits = n_heads // n_groups // heads
    place, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    tile, split = place // n_splits, place % n_splits
    return block * BLOCK, split, tile // n_groups, tile % n_groups, tl.program_id(1).to(tl.int64)


@triton.jit
@no_type_check
def hears(document, r, s, EARLIER: tl.constexpr):
    """Tell whether tokens r hear tokens s: of the same document, not later; EARLIER: are heard."""
    same = tl.load(document + r)[:, None] == tl.load(document + s)[None, :]
    return same & (r[:, None] <= s[None, :] if EARLIER else r[:, None] >= s[None, :])


@triton.jit
@no_type_check
def meet(
    z, others, document, r, s, z_token, other_token, n, real_r, real_s,
    N: tl.constexpr, EARLIER: tl.constexpr,
):  # fmt: skip
    """Give z of tokens r, its products with the others' of the same tokens, and of those heard."""
    z_r = load_rows(z, r, z_token, n, real_r, N)
    z_s = load_rows(others, s, other_token, n, real_s, N)
    scores = tl.dot(z_r, tl.trans(z_s), input_precision=PRECISION)
    itself = r[:, None] == s[None, :]
    own = tl.sum(tl.where(itself, scores, 0.0), axis=1)
    # masked once for all heads: a masked pair's decay is finite, and 0 times it is 0
    return z_r, own, tl.where(hears(document, r, s, EARLIER) & (itself == 0), scores, 0.0)


@triton.jit
@no_type_check
def add_within(sum_a, border_a, sum_b, border_b):
    """Combine two stretches of a sum that starts afresh at borders."""
    return tl.where(border_b != 0, sum_b, sum_a + sum_b), border_a | border_b


@triton.jit(do_not_specialize=COUNTS)
@no_type_check
def add_decays(
    dt, a, starts, document, step, total, enter, leave, kept, across,
    n_tokens, n_chunks, n_heads, C: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    """Add up decays; number documents, 0 for the one that came into the chunk."""
    chunk, row = tl.program_id(0), tl.program_id(2).to(tl.int64)
    i, h = tl.arange(0, C), tl.program_id(1) * BH + tl.arange(0, BH)
    t = chunk * C + i
    is_start = tl.load(starts + row * n_tokens + t, mask=t < n_tokens, other=0).to(tl.int32)
    here = tl.cumsum(is_start, axis=0)
    last = tl.sum(is_start, axis=0)
    n_filled = n_chunks * C
    tl.store(document + row * n_filled + t, here, mask=tl.program_id(1) == 0)
    inside = (t < n_tokens)[:, None] & (h < n_heads)[None, :]
    at = (row * n_tokens + t)[:, None] * n_heads + h[None, :]
    dt_ = tl.load(dt + at, mask=inside, other=0.0)
    rate = tl.load(a + h, mask=h < n_heads, other=0.0) * LOG2_E
    borders = tl.broadcast_to(is_start[:, None], (C, BH))
    decay = tl.where(borders != 0, 0.0, tl.maximum(dt_ * rate[None, :], FORGOTTEN))
    total_, _ = tl.associative_scan((decay, borders), 0, add_within)
    whole = tl.sum(tl.where(i[:, None] == C - 1, total_, 0.0), axis=0)
    left = tl.where((here == last)[:, None], tl.exp2(tl.minimum(whole[None, :] - total_, 0.0)), 0.0)
    at = (row * n_heads + h)[None, :] * n_filled + t[:, None]
    real = tl.broadcast_to((h < n_heads)[None, :], (C, BH))
    tl.store(step + at, dt_, mask=real)
    tl.store(total + at, total_, mask=real)
    tl.store(enter + at, tl.where((here == 0)[:, None], tl.exp2(total_), 0.0), mask=real)
    tl.store(leave + at, left, mask=real)
    tl.store(kept + at, left * dt_, mask=real)
    whole = tl.where(last == 0, tl.exp2(whole), 0.0)
    tl.store(across + (row * n_heads + h) * n_chunks + chunk, whole, mask=h < n_heads)


@triton.jit(do_not_specialize=COUNTS)
@no_type_check
def walk_states(
    u, z, scale, across, first, states, last, before, overlap,
    n_tokens, n_chunks, n_heads, heads_of_group,
    u_row, u_token, u_head, z_row, z_token, z_group,
    P: tl.constexpr, N: tl.constexpr, BACKWARD: tl.constexpr, HAS_FIRST: tl.constexpr,
    C: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, BP: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Walk the state <- across * state + z^T (scale * u) over chunks, leaving what each meets.

    Backward it walks from the end, as the gradient of the state after each chunk, and leaves the
    overlap with the state before the chunk, summed over this block's columns.
    """
    p_blocks: tl.constexpr = (P + BP - 1) // BP
    parts: tl.constexpr = C // BT
    p_block, n_block = tl.program_id(0) % p_blocks, tl.program_id(0) // p_blocks
    i, n, p = tl.arange(0, BT), n_block * BN + tl.arange(0, BN), p_block * BP + tl.arange(0, BP)
    head, row = tl.program_id(1), tl.program_id(2).to(tl.int64)
    place, n_steps = row * n_heads + head, n_chunks * parts
    u += row * u_row + head.to(tl.int64) * u_head
    z += row * z_row + (head // heads_of_group).to(tl.int64) * z_group
    scale, across = scale + place * n_chunks * C, across + place * n_chunks
    inside = (n < N)[:, None] & (p < P)[None, :]
    cell, swapped = n[:, None] * P + p[None, :], place * P * N + p[None, :] * N + n[:, None]
    state = tl.zeros([BN, BP], tl.float32)
    if HAS_FIRST:
        state += tl.load(first + swapped, mask=inside, other=0.0)
    fade = tl.load(across + ((n_chunks - 1) if BACKWARD else 0))
    for walked in tl.range(0, n_steps, num_stages=STAGES):
        step = (n_steps - 1 - walked) if BACKWARD else walked
        chunk, t0 = step // parts, (step * BT).to(tl.int64)
        real = step * BT + i < n_tokens
        u_ = load_rows(u + t0 * u_token, i, u_token, p, real, P)
        z_ = load_rows(z + t0 * z_token, i, z_token, n, real, N)
        scale_ = tl.load(scale + t0 + i)
        if walked % parts == 0:
            met = (place * n_chunks + chunk) * P * N + cell
            tl.store(states + met, state.to(states.dtype.element_ty), mask=inside)
            if BACKWARD:
                theirs = tl.load(before + met, mask=inside, other=0.0).to(tl.float32)
                at = ((place * n_chunks + chunk) * p_blocks + p_block) * N + n
                tl.store(overlap + at, tl.sum(theirs * state, axis=1), mask=n < N)
            state *= fade
            # fetched a chunk ahead, as nothing else hides its way from memory
            onward = tl.maximum(chunk - 1, 0) if BACKWARD else tl.minimum(chunk + 1, n_chunks - 1)
            fade = tl.load(across + onward)
        scaled = (u_.to(tl.float32) * scale_[:, None]).to(u_.dtype)
        state = tl.dot(tl.trans(z_), scaled, state, input_precision=PRECISION)
    tl.store(last + swapped, state, mask=inside)


@triton.jit(do_not_specialize=COUNTS)
@no_type_check
def hear(
    x, b, c, skip, document, step, total, enter, states, y,
    n_tokens, n_chunks, n_heads, n_groups, heads,
    x_row, x_token, x_head, b_row, b_token, b_group, c_row, c_token, c_group,
    P: tl.constexpr, N: tl.constexpr, C: tl.constexpr, BI: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Give a block of a chunk's tokens what they hear: of the chunk, the state, themselves."""
    i0, split, chunk, group, row = find_block(n_heads, n_groups, heads, BI, C)
    t0, n_filled = (chunk * C).to(tl.int64), n_chunks * C
    i, j, p, n = i0 + tl.arange(0, BI), tl.arange(0, C), tl.arange(0, BP), tl.arange(0, BN)
    real_i, real_j = chunk * C + i < n_tokens, chunk * C + j < n_tokens
    b += row * b_row + t0 * b_token + group.to(tl.int64) * b_group
    c += row * c_row + t0 * c_token + group.to(tl.int64) * c_group
    document += row * n_filled + t0
    c_i, own_i, scores = meet(c, b, document, i, j, c_token, b_token, n, real_i, real_j, N, False)
    first_head = group * (n_heads // n_groups) + split * heads
    for turn in tl.range(heads, num_stages=STAGES):
        head = first_head + turn
        place = row * n_heads + head
        x_ = x + row * x_row + t0 * x_token + head.to(tl.int64) * x_head
        x_j = load_rows(x_, j, x_token, p, real_j, P)
        x_i = x_j if BI == C else load_rows(x_, i, x_token, p, real_i, P)
        state = load_rows(states + (place * n_chunks + chunk) * N * P, n, P, p, n < N, P)
        at = place * n_filled + t0
        enter_i, step_i = tl.load(enter + at + i), tl.load(step + at + i)
        total_i, total_j = tl.load(total + at + i), tl.load(total + at + j)
        decay = tl.exp2(tl.minimum(total_i[:, None] - total_j[None, :], 0.0))
        weights = scores * decay * tl.load(step + at + j)[None, :]
        heard = tl.dot(c_i, state, input_precision=PRECISION) * enter_i[:, None]
        heard = tl.dot(weights.to(x_j.dtype), x_j, heard, input_precision=PRECISION)
        heard += (tl.load(skip + head) + step_i * own_i)[:, None] * x_i.to(tl.float32)
        at = ((row * n_tokens + t0) * n_heads + head) * P
        inside = real_i[:, None] & (p < P)[None, :]
        out = y + at + i[:, None] * (n_heads * P) + p[None, :]
        tl.store(out, heard.to(y.dtype.element_ty), mask=inside)
