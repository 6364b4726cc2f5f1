"""The backward kernels of Mamba-2's scan: gradients of inputs, of b and c, of decays.

The gradient of a decay is what passes over its token, from those before to those after it. It is
the sum, over the tokens from it on, of what each hears less what is heard of it. Both count the
same pairs, which cancel: so both take weights rounded alike, and leave each token's own out.

Dims: B batch, T time, S time filled up to whole chunks, n chunks, C tokens of a chunk, H heads,
P width of a head, G groups of heads, N width of the state; i tokens that hear, j that are heard.
Source: Dao and Gu 2024, arXiv:2405.21060, section 6.
"""

from typing import no_type_check

import triton
import triton.language as tl

from helix.kernels.triton_ssd_forward import (
    COUNTS,
    FORGOTTEN,
    LOG2_E,
    PRECISION,
    add_within,
    find_block,
    hears,
    load_rows,
    meet,
)


@triton.jit
@no_type_check
def round_to(x, like):
    """Round float32 to another's dtype, and keep it float32."""
    if like.dtype == tl.bfloat16:
        # packed conversions do not reach a number that stays float32, single ones are slow
        return ((x.to(tl.int32, bitcast=True) + 0x8000) & -0x10000).to(tl.float32, bitcast=True)
    return x.to(like.dtype).to(tl.float32)


@triton.jit(do_not_specialize=COUNTS)
@no_type_check
def pull_inputs(
    x, b, c, skip, document, step, total, leave, d_states, d_y, d_x, pulls, owns, skips,
    n_tokens, n_chunks, n_heads, n_groups, heads,
    x_row, x_token, x_head, b_row, b_token, b_group, c_row, c_token, c_group,
    room_row, room_token, room_head,
    P: tl.constexpr, N: tl.constexpr, C: tl.constexpr, BJ: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Give the gradients of x, of dt where it scales x, and of skip, for a block of tokens."""
    j0, split, chunk, group, row = find_block(n_heads, n_groups, heads, BJ, C)
    t0, n_filled, y_token = (chunk * C).to(tl.int64), n_chunks * C, n_heads * P
    i, j, p, n = tl.arange(0, C), j0 + tl.arange(0, BJ), tl.arange(0, BP), tl.arange(0, BN)
    real_i, real_j = chunk * C + i < n_tokens, chunk * C + j < n_tokens
    b += row * b_row + t0 * b_token + group.to(tl.int64) * b_group
    c += row * c_row + t0 * c_token + group.to(tl.int64) * c_group
    document += row * n_filled + t0
    b_j, own_j, scores = meet(b, c, document, j, i, b_token, c_token, n, real_j, real_i, N, True)
    tl.store(owns + (row * n_groups + group) * n_filled + t0 + j, own_j, mask=split == 0)
    first_head = group * (n_heads // n_groups) + split * heads
    for turn in tl.range(heads, num_stages=STAGES):
        head = first_head + turn
        place = row * n_heads + head
        x_ = x + row * x_row + t0 * x_token + head.to(tl.int64) * x_head
        dense = ((row * n_tokens + t0) * n_heads + head) * P
        d_y_i = load_rows(d_y + dense, i, y_token, p, real_i, P)
        d_state = load_rows(d_states + (place * n_chunks + chunk) * N * P, n, P, p, n < N, P)
        x_j = load_rows(x_, j, x_token, p, real_j, P).to(tl.float32)
        d_y_j = d_y_i if BJ == C else load_rows(d_y + dense, j, y_token, p, real_j, P)
        d_y_j = d_y_j.to(tl.float32)
        at = place * n_filled + t0
        leave_j, step_j = tl.load(leave + at + j), tl.load(step + at + j)
        total_i, total_j = tl.load(total + at + i), tl.load(total + at + j)
        decay = tl.exp2(tl.minimum(total_i[None, :] - total_j[:, None], 0.0))
        weights = (scores * decay).to(d_y_i.dtype)
        pulled = tl.dot(b_j, d_state, input_precision=PRECISION) * leave_j[:, None]
        pulled = tl.dot(weights, d_y_i, pulled, input_precision=PRECISION)
        tl.store(pulls + at + j, tl.sum(x_j * pulled, axis=1))
        tl.store(skips + at + j, tl.sum(x_j * d_y_j, axis=1))
        d_x_j = step_j[:, None] * pulled + (tl.load(skip + head) + step_j * own_j)[:, None] * d_y_j
        inside = real_j[:, None] & (p < P)[None, :]
        room = d_x + row * room_row + t0 * room_token + head.to(tl.int64) * room_head
        out = room + j[:, None] * room_token + p[None, :]
        tl.store(out, d_x_j.to(d_x.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=COUNTS)
@no_type_check
def pull_scores(
    x, b, c, document, step, total, d_y, d_scores, felt,
    n_tokens, n_chunks, n_heads, n_groups, heads,
    x_row, x_token, x_head, b_row, b_token, b_group, c_row, c_token, c_group,
    P: tl.constexpr, N: tl.constexpr, C: tl.constexpr, BI: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Give the gradients of c_i b_j, summed over heads, and of each token's weights, over j."""
    i0, split, chunk, group, row = find_block(n_heads, n_groups, heads, BI, C)
    t0, n_filled = (chunk * C).to(tl.int64), n_chunks * C
    i, j, p, n = i0 + tl.arange(0, BI), tl.arange(0, C), tl.arange(0, BP), tl.arange(0, BN)
    real_i, real_j = chunk * C + i < n_tokens, chunk * C + j < n_tokens
    b += row * b_row + t0 * b_token + group.to(tl.int64) * b_group
    c += row * c_row + t0 * c_token + group.to(tl.int64) * c_group
    document += row * n_filled + t0
    _, _, scores = meet(c, b, document, i, j, c_token, b_token, n, real_i, real_j, N, False)
    d_scores_ = tl.zeros([BI, C], tl.float32)
    first_head = group * (n_heads // n_groups) + split * heads
    for turn in tl.range(heads, num_stages=STAGES):
        head = first_head + turn
        place = row * n_heads + head
        x_ = x + row * x_row + t0 * x_token + head.to(tl.int64) * x_head
        dense = ((row * n_tokens + t0) * n_heads + head) * P
        x_j = load_rows(x_, j, x_token, p, real_j, P)
        d_y_i = load_rows(d_y + dense, i, n_heads * P, p, real_i, P)
        at = place * n_filled + t0
        total_i, total_j = tl.load(total + at + i), tl.load(total + at + j)
        met = tl.dot(d_y_i, tl.trans(x_j), input_precision=PRECISION)
        met *= tl.load(step + at + j)[None, :]
        decay = tl.exp2(tl.minimum(total_i[:, None] - total_j[None, :], 0.0))
        weights = round_to(scores * decay, x_j)
        d_scores_ += met * decay
        tl.store(felt + at + i, tl.sum(met * weights, axis=1))
    part = ((split * tl.num_programs(1) + row) * n_chunks + chunk) * n_groups + group
    out = d_scores + part * C * C + i[:, None] * C + j[None, :]
    tl.store(out, tl.where(hears(document, i, j, False), d_scores_, 0.0))


@triton.jit(do_not_specialize=COUNTS)
@no_type_check
def pull_states(
    u, states, scale, z, other, d_scores, d_z, sums,
    n_tokens, n_chunks, n_heads, n_groups, heads, n_parts,
    u_row, u_token, u_head, z_row, z_token, z_group, other_row, other_token, other_group,
    P: tl.constexpr, N: tl.constexpr, SWAPPED: tl.constexpr, C: tl.constexpr, BI: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Give the gradient of z, b or c, from states and pairs, and that of each token's scale.

    Of c, from outputs and the state before the chunk; of b, SWAPPED, from inputs and the gradient
    of the state after it, where tokens of d_scores' rows hear those of its columns.
    """
    i0, split, chunk, group, row = find_block(n_heads, n_groups, heads, BI, C)
    t0, n_filled = (chunk * C).to(tl.int64), n_chunks * C
    i, j, p, n = i0 + tl.arange(0, BI), tl.arange(0, C), tl.arange(0, BP), tl.arange(0, BN)
    real_i, real_j = chunk * C + i < n_tokens, chunk * C + j < n_tokens
    z += row * z_row + t0 * z_token + group.to(tl.int64) * z_group
    other += row * other_row + t0 * other_token + group.to(tl.int64) * other_group
    z_i = load_rows(z, i, z_token, n, real_i, N).to(tl.float32)
    d_z_ = tl.zeros([BI, BN], tl.float32)
    first_head = group * (n_heads // n_groups) + split * heads
    for turn in tl.range(heads, num_stages=STAGES):
        head = first_head + turn
        place = row * n_heads + head
        u_ = u + row * u_row + t0 * u_token + head.to(tl.int64) * u_head
        u_i = load_rows(u_, i, u_token, p, real_i, P)
        state = load_rows(states + (place * n_chunks + chunk) * N * P, n, P, p, n < N, P)
        at = place * n_filled + t0 + i
        met = tl.dot(u_i, tl.trans(state), input_precision=PRECISION)
        met *= tl.load(scale + at)[:, None]
        d_z_ += met
        tl.store(sums + at, tl.sum(met * z_i, axis=1))
    if split == 0:
        pairs = tl.zeros([BI, C], tl.float32)
        at = j[None, :] * C + i[:, None] if SWAPPED else i[:, None] * C + j[None, :]
        for part in range(n_parts):
            place = ((part * tl.num_programs(1) + row) * n_chunks + chunk) * n_groups + group
            pairs += tl.load(d_scores + place * C * C + at)
        other_j = load_rows(other, j, other_token, n, real_j, N)
        d_z_ = tl.dot(pairs.to(other_j.dtype), other_j, d_z_, input_precision=PRECISION)
    at = (((split * tl.num_programs(1) + row) * n_tokens + t0) * n_groups + group) * N
    inside = real_i[:, None] & (n < N)[None, :]
    out = d_z + at + i[:, None] * (n_groups * N) + n[None, :]
    tl.store(out, d_z_.to(d_z.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=COUNTS)
@no_type_check
def pull_decays(
    a, document, step, across, overlap, felt, entered, left, pulls, owns, skips,
    d_dt, d_a, d_skip, n_tokens, n_chunks, n_heads, n_groups, overlaps,
    C: tl.constexpr, BH: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """Give the gradients of dt, a and skip from what passed over each token of a chunk."""
    chunk, row = tl.program_id(0), tl.program_id(2).to(tl.int64)
    h = tl.program_id(1) * BH + tl.arange(0, BH)
    i = C - 1 - tl.arange(0, C)  # sums run from the last token back
    t, n_filled = chunk * C + i, n_chunks * C
    document += row * n_filled + chunk * C
    here, last = tl.load(document + i), tl.load(document + C - 1)
    is_last = tl.load(document + tl.minimum(i + 1, C - 1)) != here
    is_start = here != tl.load(document + i - 1, mask=i > 0, other=0)
    real = tl.broadcast_to((h < n_heads)[None, :], (C, BH))
    at = (row * n_heads + h)[None, :] * n_filled + t[:, None]
    step_ = tl.load(step + at, mask=real, other=0.0)
    pulls_ = tl.load(pulls + at, mask=real, other=0.0)
    left_ = tl.sum(tl.load(left + at, mask=real, other=0.0), axis=0)
    heard = tl.load(felt + at, mask=real, other=0.0) + tl.load(entered + at, mask=real, other=0.0)
    borders = tl.broadcast_to(is_last.to(tl.int32)[:, None], (C, BH))
    passed, _ = tl.associative_scan((heard - step_ * pulls_, borders), 0, add_within)
    # what leaves the chunk also passes over the tokens behind it, whom the sums above do not count
    passed += tl.where((here == last)[:, None], left_[None, :], 0.0)
    k = tl.arange(0, BO)
    place = (row * n_heads + h) * n_chunks + chunk
    over = tl.load(
        overlap + place[:, None] * overlaps + k[None, :],
        mask=(h < n_heads)[:, None] & (k < overlaps)[None, :],
        other=0.0,
    )
    over = tl.sum(over, axis=1) * tl.load(across + place, mask=h < n_heads, other=0.0)
    rate = tl.load(a + h, mask=h < n_heads, other=0.0)
    # nothing passes over a token that forgets all: what is left of the sums is their rounding
    is_border = is_start[:, None] | (step_ * rate[None, :] * LOG2_E <= FORGOTTEN)
    passed = tl.where(is_border, 0.0, passed + over[None, :])
    skips_ = tl.load(skips + at, mask=real, other=0.0)
    of_group = (row * n_groups + h // (n_heads // n_groups))[None, :] * n_filled + t[:, None]
    scaled = pulls_ + tl.load(owns + of_group, mask=real, other=0.0) * skips_
    out = d_dt + (row * n_tokens + t)[:, None] * n_heads + h[None, :]
    tl.store(out, scaled + passed * rate[None, :], mask=real & (t < n_tokens)[:, None])
    at = (row * n_chunks + chunk) * n_heads + h
    tl.store(d_a + at, tl.sum(passed * step_, axis=0), mask=h < n_heads)
    tl.store(d_skip + at, tl.sum(skips_, axis=0), mask=h < n_heads)
