"""Mamba-2's scan on a GPU: in chunks, the state before each in the inputs' dtype.

Dims: B batch, T time, S time filled up to whole chunks, n chunks, H heads, P width of a head,
G groups of heads, N width of the state.
"""

from typing import Any, NamedTuple

import torch
import triton
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from helix.kernels import triton_ssd_backward as backward
from helix.kernels import triton_ssd_forward as forward
from helix.kernels.devices import require_cuda
from helix.kernels.parts import make_room, room_of
from helix.kernels.ssd import ssd_chunked
from helix.kernels.tuned import tuned

require_cuda()

SHORT_TOKENS = 64  # shorter rows take the PyTorch form
# Of a token's x, b or c, and of a head's state: wider ones overflow shared memory or registers.
WIDEST_ROW_BYTES, WIDEST_STATE_BYTES = 512, 64 * 1024
# In float32 on a GPU nothing narrower has run whole: a model with narrower heads broke off with an
# illegal memory access, in these kernels or in those of sparse attention. So PyTorch's form is run.
LEAST_FLOAT32 = {"P": 64, "N": 128}
CHUNK_TOKENS = 128
BLOCK_HEADS = 8  # of the sums of decays
HEADED_PROGRAMS = 512  # a launch whose programs take some heads each has at least so many
SUMMED_PROGRAMS = 256  # and one that adds up over heads, where each split leaves sums of its own


class Tiling(NamedTuple):
    """How a kernel is cut into programs; `num_stages` counts tiles on their way from memory."""

    block_tokens: int
    num_warps: int
    num_stages: int


HEAR = tuned("ssd.HEAR", Tiling(128, 8, 3))
PULL_INPUTS = tuned("ssd.PULL_INPUTS", Tiling(128, 8, 3))
PULL_STATES = tuned("ssd.PULL_STATES", Tiling(128, 8, 3))
PULL_SCORES = tuned("ssd.PULL_SCORES", Tiling(64, 4, 3))
WIDEST_CELLS = {2: 64 * 128, 4: 0}  # of a state, by bytes of one: wider ones take WIDE
WIDE = Tiling(64, 8, 1)
WALK = tuned("ssd.WALK", Tiling(64, 4, 3))
WALK_STATE, WALK_HEAD = 128, 64  # the widest block of N and P
# a thread: three programs of a multiprocessor then walk at once
WALK_REGISTERS = tuned("ssd.WALK_REGISTERS", 168)
WALKING_PROGRAMS = 256  # fewer heads than this take half the block of N


class Decays(NamedTuple):
    """What log decays add up to inside chunks; `document` counts from 0, that of the chunk before.

    Attributes:
        step: dt, zero where time is filled up.
        total: Binary logarithm of the decay from the document's or chunk's start to each token.
        enter: What is left at each token of the state before the chunk.
        leave: What is left of each token in the state after the chunk.
        kept: leave * step.
        across: What is left, after the chunk, of the state before.
    """

    document: Int32[Tensor, "B S"]
    step: Float[Tensor, "B H S"]
    total: Float[Tensor, "B H S"]
    enter: Float[Tensor, "B H S"]
    leave: Float[Tensor, "B H S"]
    kept: Float[Tensor, "B H S"]
    across: Float[Tensor, "B H n"]


def add_decays(
    dt: Float[Tensor, "B T H"], a: Float[Tensor, " H"], starts: Bool[Tensor, "B T"]
) -> Decays:
    """Add up decays and number documents."""
    n_rows, n_tokens, n_heads = dt.shape
    n_chunks = triton.cdiv(n_tokens, CHUNK_TOKENS)
    filled = n_chunks * CHUNK_TOKENS
    document = torch.empty(n_rows, filled, dtype=torch.int32, device=dt.device)
    sums = [torch.empty(n_rows, n_heads, filled, device=dt.device) for _ in range(5)]
    across = torch.empty(n_rows, n_heads, n_chunks, device=dt.device)
    block = min(BLOCK_HEADS, triton.next_power_of_2(n_heads))
    forward.add_decays[(n_chunks, triton.cdiv(n_heads, block), n_rows)](
        dt, a, starts.view(torch.uint8), document, *sums, across, n_tokens, n_chunks, n_heads,
        C=CHUNK_TOKENS, BH=block, num_warps=4,
    )  # fmt: skip
    return Decays(document, *sums, across)


class _Launch(NamedTuple):
    """The arguments that the kernels over blocks of a chunk's tokens share."""

    grid: tuple[int, int]
    counts: tuple[int, int, int, int, int]  # tokens, chunks, heads, groups, heads of a program
    n_splits: int
    block_tokens: int
    options: dict[str, Any]


def _plan(x: Tensor, b: Tensor, tiling: Tiling, *, programs: int) -> _Launch:
    n_rows, n_tokens, n_heads, p = x.shape
    n_groups, n = b.shape[2:]
    n_chunks = triton.cdiv(n_tokens, CHUNK_TOKENS)
    if _block(p) * _block(n) > WIDEST_CELLS[x.element_size()]:
        tiling = WIDE
    blocks, heads = CHUNK_TOKENS // tiling.block_tokens, n_heads // n_groups
    wanted = min(heads, triton.cdiv(programs, blocks * n_chunks * n_groups * n_rows))
    n_splits = next(n for n in range(wanted, heads + 1) if heads % n == 0)
    options = {
        "P": p, "N": n, "C": CHUNK_TOKENS, "BP": _block(p), "BN": _block(n),
        "STAGES": tiling.num_stages, "num_warps": tiling.num_warps,
    }  # fmt: skip
    return _Launch(
        grid=(blocks * n_splits * n_groups * n_chunks, n_rows),
        counts=(n_tokens, n_chunks, n_heads, n_groups, heads // n_splits),
        n_splits=n_splits,
        block_tokens=tiling.block_tokens,
        options=options,
    )


def _walk(u, z, scale, decays, first, before=None):
    """Walk the state forward, or its gradient backward where `before` tells the states met."""
    n_rows, n_tokens, n_heads, p = u.shape
    n_groups, n = z.shape[2:]
    n_chunks = decays.across.shape[2]
    bn, bp = min(WALK_STATE, _block(n)), min(WALK_HEAD, _block(p))
    if n_rows * n_heads < WALKING_PROGRAMS:
        bn = max(16, bn // 2)
    p_blocks = triton.cdiv(p, bp)
    states = torch.empty(n_rows, n_heads, n_chunks, n, p, dtype=u.dtype, device=u.device)
    last = torch.empty(n_rows, n_heads, p, n, device=u.device)
    overlap = last.new_empty(n_rows, n_heads, n_chunks, 0 if before is None else p_blocks * n)
    forward.walk_states[(triton.cdiv(n, bn) * p_blocks, n_heads, n_rows)](
        u, z, scale, decays.across, last if first is None else first, states, last,
        states if before is None else before, overlap,
        n_tokens, n_chunks, n_heads, n_heads // n_groups, *u.stride()[:3], *z.stride()[:3],
        P=p, N=n, BACKWARD=before is not None, HAS_FIRST=first is not None,
        C=CHUNK_TOKENS, BT=WALK.block_tokens, BN=bn, BP=bp,
        STAGES=WALK.num_stages, num_warps=WALK.num_warps, maxnreg=WALK_REGISTERS,
    )  # fmt: skip
    return states, last, overlap


def _pull_states(u, states, scale, z, other, d_scores, *, swapped):
    """Give the gradient of z, b or c, and of the scales."""
    launch = _plan(u, z, PULL_STATES, programs=SUMMED_PROGRAMS)
    n_splits = launch.n_splits
    d_z = z.new_empty(n_splits, *z.shape, dtype=z.dtype if n_splits == 1 else torch.float32)
    sums = torch.empty_like(scale)
    backward.pull_states[launch.grid](
        u, states, scale, z, other, d_scores, d_z, sums, *launch.counts, d_scores.shape[0],
        *u.stride()[:3], *z.stride()[:3], *other.stride()[:3],
        SWAPPED=swapped, BI=launch.block_tokens, **launch.options,
    )  # fmt: skip
    return d_z[0] if n_splits == 1 else d_z.sum(0).to(z.dtype), sums


def _pull_scores(x, b, c, decays, d_y):
    launch = _plan(x, b, PULL_SCORES, programs=SUMMED_PROGRAMS)
    n_chunks, n_groups = launch.counts[1], launch.counts[3]
    pairs = n_chunks, n_groups, CHUNK_TOKENS, CHUNK_TOKENS
    d_scores = torch.empty(launch.n_splits, x.shape[0], *pairs, device=x.device)
    felt = torch.empty_like(decays.step)
    backward.pull_scores[launch.grid](
        x, b, c, decays.document, decays.step, decays.total, d_y, d_scores, felt, *launch.counts,
        *x.stride()[:3], *b.stride()[:3], *c.stride()[:3],
        BI=launch.block_tokens, **launch.options,
    )  # fmt: skip
    return d_scores, felt


def _pull_inputs(x, b, c, skip, decays, d_states, d_y, d_x):
    launch = _plan(x, b, PULL_INPUTS, programs=HEADED_PROGRAMS)
    pulls, skips = torch.empty_like(decays.step), torch.empty_like(decays.step)
    owns = pulls.new_empty(x.shape[0], b.shape[2], pulls.shape[2])
    backward.pull_inputs[launch.grid](
        x, b, c, skip, decays.document, decays.step, decays.total, decays.leave, d_states, d_y,
        d_x, pulls, owns, skips, *launch.counts, *x.stride()[:3], *b.stride()[:3], *c.stride()[:3],
        *d_x.stride()[:3], BJ=launch.block_tokens, **launch.options,
    )  # fmt: skip
    return pulls, owns, skips


def _pull_decays(a, decays, overlap, sums, n_tokens, n_groups):
    n_rows, n_heads, n_chunks = decays.across.shape
    d_dt = a.new_empty(n_rows, n_tokens, n_heads)
    d_a, d_skip = (a.new_empty(n_rows, n_chunks, n_heads) for _ in range(2))
    block = min(BLOCK_HEADS, triton.next_power_of_2(n_heads))
    backward.pull_decays[(n_chunks, triton.cdiv(n_heads, block), n_rows)](
        a, decays.document, decays.step, decays.across, overlap, *sums,
        d_dt, d_a, d_skip, n_tokens, n_chunks, n_heads, n_groups, overlap.shape[-1],
        C=CHUNK_TOKENS, BH=block, BO=triton.next_power_of_2(overlap.shape[-1]), num_warps=4,
    )  # fmt: skip
    return d_dt, d_a.sum((0, 1)), d_skip.sum((0, 1))


class _SSD(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dt, a, b, c, skip, starts, state):
        decays = add_decays(dt, a, starts)
        states, last, _ = _walk(x, b, decays.kept, decays, state)
        launch = _plan(x, b, HEAR, programs=HEADED_PROGRAMS)
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        forward.hear[launch.grid](
            x, b, c, skip, decays.document, decays.step, decays.total, decays.enter, states, y,
            *launch.counts, *x.stride()[:3], *b.stride()[:3], *c.stride()[:3],
            BI=launch.block_tokens, **launch.options,
        )  # fmt: skip
        ctx.save_for_backward(x, dt, a, b, c, skip, starts, states)
        ctx.room = room_of(x)
        ctx.has_state = state is not None
        ctx.set_materialize_grads(False)
        return y, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_y, d_last):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, dt, a, b, c, skip, starts, states = ctx.saved_tensors
        d_y = x.new_zeros(x.shape) if d_y is None else d_y.contiguous()
        d_last = None if d_last is None else d_last.contiguous()
        decays = add_decays(dt, a, starts)
        d_states, d_state, overlap = _walk(d_y, c, decays.enter, decays, d_last, states)
        d_x = make_room(ctx.room, x)
        pulled = _pull_inputs(x, b, c, skip, decays, d_states, d_y, d_x)
        d_scores, felt = _pull_scores(x, b, c, decays, d_y)
        d_c, entered = _pull_states(d_y, states, decays.enter, c, b, d_scores, swapped=False)
        d_b, left = _pull_states(x, d_states, decays.kept, b, c, d_scores, swapped=True)
        sums = felt, entered, left, *pulled
        d_dt, d_a, d_skip = _pull_decays(a, decays, overlap, sums, x.shape[1], b.shape[2])
        return d_x, d_dt, d_a, d_b, d_c, d_skip, None, d_state if ctx.has_state else None


def ssd(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    a: Float[Tensor, " H"],
    b: Float[Tensor, "B T G N"],
    c: Float[Tensor, "B T G N"],
    skip: Float[Tensor, " H"],
    starts: Bool[Tensor, "B T"],
    state: Float[Tensor, "B H P N"] | None = None,
    *,
    chunk_tokens: int = 64,
) -> tuple[Float[Tensor, "B T H P"], Float[Tensor, "B H P N"]]:
    """Compute ssd.ssd_reference on the GPU; `chunk_tokens` is that of short inputs alone."""
    p, n = x.shape[-1], b.shape[-1]
    is_proven = p >= LEAST_FLOAT32["P"] and n >= LEAST_FLOAT32["N"]
    is_untried = x.is_cuda and x.dtype == torch.float32 and not is_proven
    if x.shape[1] < SHORT_TOKENS or is_wide(p, n, b.element_size()) or is_untried:
        return ssd_chunked(x, dt, a, b, c, skip, starts, state, chunk_tokens=chunk_tokens)
    x, b, c = (z if z.stride(-1) == 1 else z.contiguous() for z in (x, b, c))
    dt, a, skip, starts = dt.float().contiguous(), a.float(), skip.float(), starts.contiguous()
    state = None if state is None else state.float().contiguous()
    return _SSD.apply(x, dt, a, b, c, skip, starts, state)


def is_wide(p: int, n: int, n_bytes: int) -> bool:
    """Tell whether a head of width P and N, of so many bytes a number, is too wide to launch."""
    bp, bn = _block(p), _block(n)
    return max(bp, bn) * n_bytes > WIDEST_ROW_BYTES or bp * bn * n_bytes > WIDEST_STATE_BYTES


def _block(width: int) -> int:
    return max(16, triton.next_power_of_2(width))
