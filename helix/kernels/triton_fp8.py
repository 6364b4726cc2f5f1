"""Floats of 8 bits on a GPU: each matrix is read once and written both ways.

The transposed copy is made of 32-bit words, each of four tokens that follow each other: words
change places between threads without conflict, and bytes need not.

Dims: N tokens or rows, D columns, M rows of the other side, E width of an output, G width of
[gate | up], F half of it, V vocabulary.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int64
from torch import Tensor

from helix.kernels import fp8, fp8_products
from helix.kernels.devices import require_cuda
from helix.kernels.fp8 import E4M3, E5M2, Both, Format, Gated, Operand, Primitives, empty_transposed
from helix.kernels.triton_cross_entropy import LANE_COLUMNS, LANES, log_total_of_row, scaled
from helix.kernels.triton_cross_entropy import WARPS as ROW_WARPS

require_cuda()
if torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9):
    raise ImportError("8-bit products need a GPU of compute capability 8.9 or higher")

# Terms that a product may sum in the tensor cores' own accumulator of 14 bits: of 4096 some 2% is
# lost (DeepSeek-AI 2024, arXiv:2412.19437, section 3.3.2).
FAST_TERMS = 2048
LARGEST_PROGRAMS, LARGEST_BLOCK = 1024, 8192  # one wave of 132 processors
# A tile is four times as many tokens, and columns: 40 to 64 registers a thread on Hopper.
QUADS, COLUMNS = 32, 64
GLU_QUADS, GLU_COLUMNS = 16, 64
WARPS = 8


@triton.jit
@no_type_check
def _scales(largest, TOP: tl.constexpr, SMALLEST_FIELD: tl.constexpr):
    """Compute fp8.scales."""
    field = tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, SMALLEST_FIELD)
    scale = ((254 + TOP - field) << 23).to(tl.float32, bitcast=True)
    inverse = ((field - TOP) << 23).to(tl.float32, bitcast=True)
    return scale, tl.where(field == 255, float("nan"), inverse)


@triton.jit
@no_type_check
def _magnitude(x):
    """Give |x| as an integer, which orders NaN above everything."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
@no_type_check
def _pack(a, b, c, d, FIVE_BITS: tl.constexpr):
    """Round four floats to 8 bits and put them into a word, the first lowest."""
    # not `.to`: ptxas 12.9, which Triton 3.8 still brings along, mixes up the bytes of a rounded
    # tile that is stored in two layouts (github.com/triton-lang/triton/issues/11111)
    if FIVE_BITS:
        return tl.inline_asm_elementwise(
            """{
            .reg .b16 low, high;
            cvt.rn.satfinite.e5m2x2.f32 low, $2, $1;
            cvt.rn.satfinite.e5m2x2.f32 high, $4, $3;
            mov.b32 $0, {low, high};
            }""",
            "=r,f,f,f,f",
            [a, b, c, d],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    return tl.inline_asm_elementwise(
        """{
        .reg .b16 low, high;
        cvt.rn.satfinite.e4m3x2.f32 low, $2, $1;
        cvt.rn.satfinite.e4m3x2.f32 high, $4, $3;
        mov.b32 $0, {low, high};
        }""",
        "=r,f,f,f,f",
        [a, b, c, d],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )


@triton.jit
@no_type_check
def _store_transposed(
    columns, a, b, c, d, quad, column, n_quads, n_columns, stride, FIVE_BITS: tl.constexpr
):
    """Store tokens 0, 1, 2, 3 of each quad: as one word, or singly where they are wider."""
    inside = (column < n_columns)[None, :] & (quad < n_quads)[:, None]
    at = column[None, :].to(tl.int64) * stride
    if columns.dtype.element_ty == tl.int32:
        tl.store(columns + at + quad[:, None], _pack(a, b, c, d, FIVE_BITS), mask=inside)
    else:
        at += 4 * quad[:, None]
        tl.store(columns + at, a, mask=inside)
        tl.store(columns + at + 1, b, mask=inside)
        tl.store(columns + at + 2, c, mask=inside)
        tl.store(columns + at + 3, d, mask=inside)


@triton.jit
@no_type_check
def _find_largest(x, found, n, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    largest = tl.zeros([BLOCK], tl.int32)
    for step in range(STEPS):
        block = tl.program_id(0).to(tl.int64) + step * tl.num_programs(0)
        at = block * BLOCK + tl.arange(0, BLOCK)
        here = _magnitude(tl.load(x + at, mask=at < n, other=0).to(tl.float32))
        largest = tl.maximum(largest, here)
    tl.store(found + tl.program_id(0), tl.max(largest, axis=0))


@triton.jit
@no_type_check
def _store_rows(rows, a, b, c, d, quad, column, n, n_columns, stride):
    """Store tokens 0, 1, 2, 3 of each quad as rows."""
    of_columns = (column < n_columns)[None, :]
    at = 4 * quad[:, None].to(tl.int64) * stride + column[None, :]
    kind: tl.constexpr = rows.dtype.element_ty
    tl.store(rows + at, a.to(kind), mask=(4 * quad < n)[:, None] & of_columns)
    tl.store(rows + at + stride, b.to(kind), mask=(4 * quad + 1 < n)[:, None] & of_columns)
    tl.store(rows + at + 2 * stride, c.to(kind), mask=(4 * quad + 2 < n)[:, None] & of_columns)
    tl.store(rows + at + 3 * stride, d.to(kind), mask=(4 * quad + 3 < n)[:, None] & of_columns)


@triton.jit
@no_type_check
def _lift(x, scale, row, column, n, d):
    inside = (row < n)[:, None] & (column < d)[None, :]
    at = row[:, None].to(tl.int64) * d + column[None, :]
    return tl.load(x + at, mask=inside, other=0).to(tl.float32) * scale


@triton.jit
@no_type_check
def _quantise(
    x, largest, rows, columns, inverse, n, n_quads, d, stride,
    TOP: tl.constexpr, SMALLEST: tl.constexpr, FIVE_BITS: tl.constexpr,
    QUADS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    scale, undo = _scales(tl.load(largest), TOP, SMALLEST)
    quad = tl.program_id(1) * QUADS + tl.arange(0, QUADS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    # all loads before the first store, which for all the compiler knows might change their result
    x0 = _lift(x, scale, 4 * quad, column, n, d)
    x1 = _lift(x, scale, 4 * quad + 1, column, n, d)
    x2 = _lift(x, scale, 4 * quad + 2, column, n, d)
    x3 = _lift(x, scale, 4 * quad + 3, column, n, d)
    _store_rows(rows, x0, x1, x2, x3, quad, column, n, d, d)
    _store_transposed(columns, x0, x1, x2, x3, quad, column, n_quads, d, stride, FIVE_BITS)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        tl.store(inverse, undo)


@triton.jit
@no_type_check
def _glu(
    gate_up, rows, inverses, largest, n, f,
    TOP: tl.constexpr, SMALLEST: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """Gate one row, round it, and leave its largest magnitudes."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, F)
    inside = column < f
    gate = tl.load(gate_up + row * 2 * f + column, mask=inside, other=0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * f + f + column, mask=inside, other=0).to(tl.float32)
    y = gate * tl.sigmoid(gate) * up
    of_y = tl.max(_magnitude(y), axis=0)
    of_both = tl.max(tl.maximum(_magnitude(gate), _magnitude(up)), axis=0)
    scale, undo = _scales(of_y.to(tl.float32, bitcast=True), TOP, SMALLEST)
    tl.store(rows + row * f + column, (y * scale).to(rows.dtype.element_ty), mask=inside)
    tl.store(inverses + row, undo)
    tl.store(largest + row, of_y)
    tl.store(largest + n + row, of_both)


@triton.jit
@no_type_check
def _differentiate_glu(gate_up, d_y, scale, y_scale, row, column, n, f):
    inside = (row < n)[:, None] & (column < f)[None, :]
    at = row[:, None].to(tl.int64) * 2 * f + column[None, :]
    gate = tl.load(gate_up + at, mask=inside, other=0).to(tl.float32)
    up = tl.load(gate_up + at + f, mask=inside, other=0).to(tl.float32)
    in_y = row[:, None].to(tl.int64) * f + column[None, :]
    given = tl.load(d_y + in_y, mask=inside, other=0).to(tl.float32)
    share = tl.sigmoid(gate)
    d_gate = given * up * share * (1 + gate * (1 - share)) * scale
    return d_gate, given * gate * share * scale, gate * share * up * y_scale


@triton.jit
@no_type_check
def _glu_gradient(
    gate_up, d_y, largest, d_y_largest, rows, columns, up_columns, y_columns, inverse,
    y_inverse, n, n_quads, f, stride,
    GLU_SLOPE: tl.constexpr, TOP: tl.constexpr, Y_TOP: tl.constexpr, SMALLEST: tl.constexpr,
    FIVE_BITS: tl.constexpr, Y_FIVE_BITS: tl.constexpr,
    QUADS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    bound = GLU_SLOPE * tl.load(d_y_largest) * tl.load(largest + 1)
    scale, undo = _scales(bound, TOP, SMALLEST)
    y_scale, y_undo = _scales(tl.load(largest), Y_TOP, SMALLEST)
    quad = tl.program_id(1) * QUADS + tl.arange(0, QUADS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    t = 4 * quad
    g0, u0, y0 = _differentiate_glu(gate_up, d_y, scale, y_scale, t, column, n, f)
    g1, u1, y1 = _differentiate_glu(gate_up, d_y, scale, y_scale, t + 1, column, n, f)
    g2, u2, y2 = _differentiate_glu(gate_up, d_y, scale, y_scale, t + 2, column, n, f)
    g3, u3, y3 = _differentiate_glu(gate_up, d_y, scale, y_scale, t + 3, column, n, f)
    _store_rows(rows, g0, g1, g2, g3, quad, column, n, f, 2 * f)
    _store_rows(rows + f, u0, u1, u2, u3, quad, column, n, f, 2 * f)
    _store_transposed(columns, g0, g1, g2, g3, quad, column, n_quads, f, stride, FIVE_BITS)
    _store_transposed(up_columns, u0, u1, u2, u3, quad, column, n_quads, f, stride, FIVE_BITS)
    _store_transposed(y_columns, y0, y1, y2, y3, quad, column, n_quads, f, stride, Y_FIVE_BITS)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        tl.store(inverse, undo)
        tl.store(y_inverse, y_undo)


@triton.jit
@no_type_check
def _row_losses(
    logits, targets, losses, log_totals, ignored,
    N_VOCAB: tl.constexpr, LANES: tl.constexpr, LANE_COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * N_VOCAB
    target = tl.load(targets + row)
    is_target = target != ignored
    chosen = tl.load(logits + tl.where(is_target, target, 0)).to(tl.float32)
    log_total = log_total_of_row(logits, N_VOCAB, LANES, LANE_COLUMNS)
    tl.store(losses + row, tl.where(is_target, log_total - chosen, 0.0))
    # softmax of a token that teaches nothing: exp(x - inf) = 0
    tl.store(log_totals + row, tl.where(is_target, log_total, float("inf")))


@triton.jit
@no_type_check
def _differentiate_loss(logits, targets, log_totals, scale, row, column, n, n_vocab):
    here = row < n
    inside = here[:, None] & (column < n_vocab)[None, :]
    at = row[:, None].to(tl.int64) * n_vocab + column[None, :]
    x = tl.load(logits + at, mask=inside, other=-float("inf")).to(tl.float32)
    log_total = tl.load(log_totals + row, mask=here, other=float("inf"))
    target = tl.load(targets + row, mask=here, other=-1).to(tl.int32)
    target = tl.where(log_total == float("inf"), -1, target)
    one_hot = tl.where(column[None, :] == target[:, None], 1.0, 0.0)
    return (tl.exp(x - log_total[:, None]) - one_hot) * scale


@triton.jit
@no_type_check
def _softmax_gradient(
    logits, targets, log_totals, rows, columns, n, n_quads, n_vocab, stride, scale,
    FIVE_BITS: tl.constexpr, QUADS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    quad = tl.program_id(1) * QUADS + tl.arange(0, QUADS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    t = 4 * quad
    d0 = _differentiate_loss(logits, targets, log_totals, scale, t, column, n, n_vocab)
    d1 = _differentiate_loss(logits, targets, log_totals, scale, t + 1, column, n, n_vocab)
    d2 = _differentiate_loss(logits, targets, log_totals, scale, t + 2, column, n, n_vocab)
    d3 = _differentiate_loss(logits, targets, log_totals, scale, t + 3, column, n, n_vocab)
    _store_rows(rows, d0, d1, d2, d3, quad, column, n, n_vocab, n_vocab)
    _store_transposed(columns, d0, d1, d2, d3, quad, column, n_quads, n_vocab, stride, FIVE_BITS)


def quantise(x: Float[Tensor, "N D"], kind: Format) -> Both:
    """Compute fp8.quantise."""
    n, d = x.shape
    x = x.contiguous()
    rows, inverse = _empty(x, n, d, kind), _inverse(x, 1)
    columns = empty_transposed(n, d, kind, x.device)
    words = _words(columns)
    _quantise[_tiles(n, d, QUADS, COLUMNS)](
        x, _largest(x), rows, words, inverse, n, triton.cdiv(n, 4), d, words.stride(0),
        TOP=kind.top, SMALLEST=fp8.SMALLEST_FIELD, FIVE_BITS=_has_five_bits(kind),
        QUADS=QUADS, COLUMNS=COLUMNS, num_warps=WARPS,
    )  # fmt: skip
    return Both(Operand(rows, inverse), Operand(columns, inverse))


def glu(gate_up: Float[Tensor, "N G"], kind: Format) -> Gated:
    """Compute fp8.glu."""
    n, f = gate_up.shape[0], gate_up.shape[1] // 2
    rows, inverses = _empty(gate_up, n, f, kind), _inverse(gate_up, n)
    largest = torch.empty(2, n, dtype=torch.int32, device=gate_up.device)
    block = triton.next_power_of_2(f)
    _glu[(n,)](
        gate_up, rows, inverses, largest, n, f,
        TOP=kind.top, SMALLEST=fp8.SMALLEST_FIELD, F=block, num_warps=8 if block <= 4096 else 16,
    )  # fmt: skip
    return Gated(Operand(rows, inverses), largest.amax(1).view(torch.float32))


def glu_gradient(
    gate_up: Float[Tensor, "N G"],
    d_y: Float[Tensor, "N F"],
    largest: Float[Tensor, " 2"],
    values: Format,
    gradients: Format,
) -> tuple[Both, Operand]:
    """Compute fp8.glu_gradient."""
    n, f = d_y.shape
    rows, inverse, y_inverse = _empty(d_y, n, 2 * f, gradients), _inverse(d_y, 1), _inverse(d_y, 1)
    columns = empty_transposed(n, 2 * f, gradients, d_y.device)
    y_columns = empty_transposed(n, f, values, d_y.device)
    words, y_words = _words(columns), _words(y_columns)
    _glu_gradient[_tiles(n, f, GLU_QUADS, GLU_COLUMNS)](
        gate_up, d_y, largest, _largest(d_y), rows, words, words[f:], y_words,
        inverse, y_inverse, n, triton.cdiv(n, 4), f, words.stride(0),
        GLU_SLOPE=fp8.GLU_SLOPE, TOP=gradients.top, Y_TOP=values.top, SMALLEST=fp8.SMALLEST_FIELD,
        FIVE_BITS=_has_five_bits(gradients), Y_FIVE_BITS=_has_five_bits(values),
        QUADS=GLU_QUADS, COLUMNS=GLU_COLUMNS, num_warps=WARPS,
    )  # fmt: skip
    both = Both(Operand(rows, inverse), Operand(columns, inverse))
    return both, Operand(y_columns, y_inverse)


def softmax_gradient(
    logits: Float[Tensor, "N V"],
    targets: Int64[Tensor, " N"],
    columns: Float[Tensor, "V _"],
    kind: Format,
    *,
    ignored: int,
) -> tuple[Float[Tensor, " N"], Operand]:
    """Compute fp8.softmax_gradient."""
    n, n_vocab = logits.shape
    losses, log_totals = torch.empty(2, n, dtype=torch.float32, device=logits.device)
    _row_losses[(n,)](
        logits, targets, losses, log_totals, ignored,
        N_VOCAB=n_vocab, LANES=LANES, LANE_COLUMNS=LANE_COLUMNS, num_warps=ROW_WARPS,
    )  # fmt: skip
    rows, words, scale = _empty(logits, n, n_vocab, kind), _words(columns), 2.0**kind.top
    _softmax_gradient[_tiles(n, n_vocab, QUADS, COLUMNS)](
        logits, targets, log_totals, rows, words, n, triton.cdiv(n, 4), n_vocab,
        words.stride(0), scale,
        FIVE_BITS=_has_five_bits(kind), QUADS=QUADS, COLUMNS=COLUMNS, num_warps=WARPS,
    )  # fmt: skip
    return losses, Operand(rows, torch.full((1, 1), 1 / scale, device=logits.device))


def product(a: Operand, b: Operand, dtype: torch.dtype) -> Float[Tensor, "N M"]:
    """Compute fp8.product on tensor cores, summed in float32 where the sum is long."""
    b_inverse = b.inverse
    if len(a.inverse) > 1:
        b_inverse = b_inverse.expand(len(b.values), 1).contiguous()
    return torch._scaled_mm(
        a.values,
        b.values.T,
        scale_a=a.inverse,
        scale_b=b_inverse.T,
        out_dtype=dtype,
        use_fast_accum=a.values.shape[1] <= FAST_TERMS,
    )


def _largest(x: Tensor) -> Tensor:
    """Find the largest magnitude; its bits are compared, so that NaN and infinity win."""
    n_blocks = triton.cdiv(x.numel(), LARGEST_BLOCK)
    n_programs = min(n_blocks, LARGEST_PROGRAMS)
    found = torch.empty(n_programs, dtype=torch.int32, device=x.device)
    _find_largest[(n_programs,)](
        x, found, x.numel(),
        STEPS=triton.cdiv(n_blocks, n_programs), BLOCK=LARGEST_BLOCK, num_warps=WARPS,
    )  # fmt: skip
    return found.amax().view(torch.float32)


def _empty(like: Tensor, n: int, d: int, kind: Format) -> Tensor:
    return torch.empty(n, d, dtype=kind.dtype, device=like.device)


def _inverse(like: Tensor, n: int) -> Tensor:
    return torch.empty(n, 1, dtype=torch.float32, device=like.device)


def _words(columns: Tensor) -> Tensor:
    return columns.view(torch.int32) if columns.element_size() == 1 else columns


def _tiles(n: int, d: int, n_quads: int, n_columns: int) -> tuple[int, int]:
    return triton.cdiv(d, n_columns), triton.cdiv(n, 4 * n_quads)


def _has_five_bits(kind: Format) -> bool:
    """Tell which of the two formats it is, by the bits of its exponent."""
    return kind.dtype == torch.float8_e5m2


PRIMITIVES = Primitives(E4M3, E5M2, quantise, glu, glu_gradient, softmax_gradient, scaled, product)


def linear(x: Float[Tensor, "*N D"], weight: Float[Tensor, "E D"]) -> Float[Tensor, "*N E"]:
    """Compute fp8_products.linear."""
    return fp8_products.linear(x, weight, primitives=PRIMITIVES)


def swiglu(
    x: Float[Tensor, "*N D"], gate_up: Float[Tensor, "G D"], down: Float[Tensor, "D F"]
) -> Float[Tensor, "*N D"]:
    """Compute fp8_products.swiglu."""
    return fp8_products.swiglu(x, gate_up, down, primitives=PRIMITIVES)


def linear_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int64[Tensor, " N"],
    *,
    chunk_rows: int,
    ignored: int = -100,
) -> Float[Tensor, ""]:
    """Compute fp8_products.linear_cross_entropy."""
    return fp8_products.linear_cross_entropy(
        hidden, weight, targets, chunk_rows=chunk_rows, ignored=ignored, primitives=PRIMITIVES
    )
