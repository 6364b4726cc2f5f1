"""8-bit products: rounding, scales, and what training by them differs from the exact."""

import pytest
import torch

from helix.kernels import fp8, fp8_products
from helix.kernels.cross_entropy import cross_entropy_reference
from helix.kernels.fp8 import E4M3, E5M2, REFERENCE, Format, Operand
from helix.kernels.pointwise import glu
from tests.numerics import assert_close, gradients, relative_error

ROUNDING = {E4M3: 2.0**-4, E5M2: 2.0**-3}  # of one number, relative
BOUND = 0.12  # of a result or gradient: two or three rounded factors in a row
UNROUNDED = REFERENCE._replace(
    values=Format(torch.float32, E4M3.top), gradients=Format(torch.float32, E5M2.top)
)
each_format = pytest.mark.parametrize("kind", [E4M3, E5M2], ids=["e4m3", "e5m2"])


def leaf(*shape, std=1.0, dtype=torch.float32, device="cpu"):
    return (torch.randn(shape) * std).to(device, dtype).requires_grad_()


def exact_swiglu(x, gate_up, down):
    return glu(x @ gate_up.T) @ down.T


def ffn_inputs(*tokens, d_model=48, d_ffn=80, **options):
    return [
        leaf(*tokens, d_model, **options),
        leaf(2 * d_ffn, d_model, std=d_model**-0.5, **options),
        leaf(d_model, d_ffn, std=d_ffn**-0.5, **options),
    ]


def head_inputs(n_tokens=70, *, n_vocab=512, d=64, **options):
    weight = leaf(n_vocab, d, std=2 * d**-0.5, **options)
    targets = torch.randint(n_vocab, (n_tokens,)).to(weight.device)
    targets[::4] = -100
    return leaf(n_tokens, d, **options), weight, targets


def assert_near(actual, expected, inputs, *, bound=BOUND):
    assert actual.shape == expected.shape
    pairs = [(actual, expected)]
    pairs += zip(gradients(actual, inputs), gradients(expected, inputs), strict=True)
    for a, e in pairs:
        assert a.dtype == e.dtype
        assert relative_error(a, e) <= bound


def dequantise(operand):
    return operand.values.float() * operand.inverse


@each_format
@pytest.mark.parametrize("n_tokens", [1, 16, 37])
def test_each_number_is_rounded_once_in_both_layouts(kind, n_tokens):
    x = torch.randn(n_tokens, 32)
    both = fp8.quantise(x, kind)
    assert ((dequantise(both.rows) - x).abs() <= ROUNDING[kind] * x.abs() + 1e-4).all()
    columns = dequantise(both.columns)
    assert columns.shape == (32, fp8.padded(n_tokens))
    assert torch.equal(columns[:, :n_tokens].T, dequantise(both.rows))
    assert (columns[:, n_tokens:] == 0).all()


@each_format
@pytest.mark.parametrize("size", [1e-30, 3e-7, 1.0, 448.0, 1e30])
def test_scale_is_a_power_of_two_that_leaves_room(kind, size):
    x = torch.rand(20, 16) * size
    rows = fp8.quantise(x, kind).rows
    mantissa, _ = torch.frexp(rows.inverse)
    assert (mantissa == 0.5).all()
    assert 2.0**kind.top <= rows.values.float().max() <= 2.0 ** (kind.top + 1)
    assert relative_error(dequantise(rows), x) < ROUNDING[kind]


@each_format
@pytest.mark.parametrize("size", [0.0, 1e-44])
def test_nothing_and_next_to_nothing_become_zero(kind, size):
    both = fp8.quantise(torch.full((5, 16), size), kind)
    assert (dequantise(both.rows) == 0).all()
    assert (fp8.product(both.rows, both.rows, torch.float32) == 0).all()


@pytest.mark.parametrize("wrong", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_shows_in_every_product(wrong):
    x = torch.randn(5, 16)
    x[2, 3] = wrong
    rows = fp8.quantise(x, E4M3).rows
    assert (
        fp8.product(rows, fp8.quantise(torch.randn(7, 16), E4M3).rows, torch.float32).isnan().all()
    )


@each_format
@pytest.mark.parametrize("n_scales", [1, 32])
def test_product_is_that_of_torch(kind, n_scales):
    a = fp8.quantise(torch.randn(32, 64), kind).rows
    a = Operand(a.values, a.inverse * torch.rand(n_scales, 1))
    b = fp8.quantise(torch.randn(48, 64), E4M3).rows
    scale_b = b.inverse.expand(48 if n_scales > 1 else 1, 1).contiguous()
    theirs = torch._scaled_mm(
        a.values, b.values.T, scale_a=a.inverse, scale_b=scale_b.T, out_dtype=torch.float32
    )
    assert_close(fp8.product(a, b, torch.float32), theirs)


def test_gate_scales_each_token_by_itself():
    gate_up = torch.randn(9, 64)
    before = fp8.glu(gate_up, E4M3)
    gate_up[4] *= 1e4
    after = fp8.glu(gate_up, E4M3)
    others = torch.arange(9) != 4
    assert torch.equal(dequantise(after.rows)[others], dequantise(before.rows)[others])
    assert after.largest[1] == gate_up.abs().max()


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e6])
def test_gradient_of_the_gate_stays_within_its_bound(size):
    gate_up, d_y = torch.randn(40, 64) * 30, torch.randn(40, 32) * size
    gate_up[:, 5], gate_up[:, 37] = 2.4, gate_up.abs().max()  # where silu is steepest
    largest = fp8.glu(gate_up, E4M3).largest
    d_gate_up, y = fp8.glu_gradient(gate_up, d_y, largest, E4M3, E5M2)
    assert d_gate_up.rows.values.float().abs().max() <= 2.0 ** (E5M2.top + 1)
    leaf = gate_up.requires_grad_()
    (expected,) = torch.autograd.grad(glu(leaf), leaf, d_y)
    assert relative_error(dequantise(d_gate_up.rows), expected) < 0.07
    assert relative_error(dequantise(y)[:, :40].T, glu(gate_up)) < 0.04


def test_gradient_of_the_loss_reaches_the_rarest_words():
    """Most of a large vocabulary lies below the range of E4M3, which would never push it down."""
    logits = torch.linspace(0, -18, 64).expand(16, -1).contiguous()
    columns = torch.empty(64, 16, dtype=E5M2.dtype)
    targets = torch.zeros(16, dtype=torch.int64)
    _, rows = fp8.softmax_gradient(logits, targets, columns, E5M2, ignored=-100)
    p = logits.softmax(1)
    assert p.min() < 5e-9
    error = (dequantise(rows) / p - 1)[:, 1:]
    assert error.abs().max() <= ROUNDING[E5M2]
    assert torch.equal(columns.float().T, rows.values.float())


@pytest.mark.parametrize("tokens", [(1,), (16,), (3, 37)])
@pytest.mark.parametrize("primitives", [REFERENCE, UNROUNDED], ids=["rounded", "unrounded"])
def test_linear_map_is_the_exact_one_but_for_rounding(tokens, primitives):
    x, weight = leaf(*tokens, 64), leaf(48, 64)
    y = fp8_products.linear(x, weight, primitives=primitives)
    assert_near(y, x @ weight.T, [x, weight], bound=2e-5 if primitives is UNROUNDED else BOUND)


@pytest.mark.parametrize("tokens", [(1,), (16,), (3, 37)])
@pytest.mark.parametrize("primitives", [REFERENCE, UNROUNDED], ids=["rounded", "unrounded"])
def test_swiglu_is_the_exact_one_but_for_rounding(tokens, primitives):
    inputs = ffn_inputs(*tokens)
    y = fp8_products.swiglu(*inputs, primitives=primitives)
    assert_near(y, exact_swiglu(*inputs), inputs, bound=2e-5 if primitives is UNROUNDED else BOUND)


@pytest.mark.parametrize("chunk_rows", [7, 16, 64, 1000])
@pytest.mark.parametrize("weight_tokens", [32, 32768])
@pytest.mark.parametrize("primitives", [REFERENCE, UNROUNDED], ids=["rounded", "unrounded"])
def test_loss_is_the_exact_one_but_for_rounding(monkeypatch, chunk_rows, weight_tokens, primitives):
    monkeypatch.setattr(fp8_products, "WEIGHT_TOKENS", weight_tokens)
    hidden, weight, targets = head_inputs()
    loss = fp8_products.linear_cross_entropy(
        hidden, weight, targets, chunk_rows=chunk_rows, primitives=primitives
    )
    expected = cross_entropy_reference(hidden, weight, targets)
    assert relative_error(loss, expected) < 5e-3
    bound = 2e-5 if primitives is UNROUNDED else BOUND
    assert_near(0.3 * loss, 0.3 * expected, [hidden, weight], bound=bound)


def test_all_ignored_is_zero_with_zero_gradients():
    hidden, weight, targets = head_inputs()
    loss = fp8_products.linear_cross_entropy(hidden, weight, targets.fill_(-100), chunk_rows=16)
    assert loss.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(loss, (hidden, weight)))


def test_loss_of_no_tokens_is_zero():
    hidden, weight, targets = head_inputs(0)
    loss = fp8_products.linear_cross_entropy(hidden, weight, targets, chunk_rows=16)
    assert loss.item() == 0
    assert (torch.autograd.grad(loss, weight)[0] == 0).all()


@pytest.mark.parametrize("size", [0.0, 1e-15, 1e4])
def test_gradients_of_any_size_are_finite(size):
    x, gate_up, down = inputs = ffn_inputs(20)
    y = fp8_products.swiglu(x, gate_up, down)
    d_y = torch.randn_like(y) * size
    actual = torch.autograd.grad(y, inputs, d_y)
    expected = torch.autograd.grad(exact_swiglu(*inputs), inputs, d_y)
    for a, e in zip(actual, expected, strict=True):
        assert a.isfinite().all()
        assert relative_error(a, e) <= BOUND


def test_half_precision_goes_in_and_comes_out():
    inputs = ffn_inputs(20, dtype=torch.bfloat16)
    y = fp8_products.swiglu(*inputs)
    assert y.dtype == torch.bfloat16
    assert all(g.dtype == torch.bfloat16 for g in gradients(y, inputs))
    hidden, weight, targets = head_inputs(dtype=torch.bfloat16)
    loss = fp8_products.linear_cross_entropy(hidden, weight, targets, chunk_rows=32)
    assert loss.dtype == torch.float32
    assert all(g.dtype == torch.bfloat16 for g in torch.autograd.grad(loss, (hidden, weight)))


def test_the_same_inputs_give_the_same_bits():
    """Nothing is remembered: what was computed in between, however large, changes nothing."""
    inputs = ffn_inputs(20)

    def run(scale):
        y = fp8_products.swiglu(inputs[0] * scale, *inputs[1:])
        return [y, *gradients(y, inputs)]

    first, _, again = run(1.0), run(1e5), run(1.0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("width", "nearest"), [(8, "nearest: 16"), (100, "nearest: 96, 112"), (4104, "4096, 4112")]
)
def test_width_that_is_no_multiple_of_16_is_refused_by_its_path(width, nearest):
    with pytest.raises(ValueError, match=rf"model.d_ffn={width}: .*multiple of 16.*{nearest}"):
        fp8.check_width("model.d_ffn", width)
    fp8.check_width("model.d_ffn", 4096)


@pytest.mark.parametrize("shape", [(48, 40), (40, 48)])
def test_weight_that_is_no_multiple_of_16_is_refused(shape):
    with pytest.raises(ValueError, match="multiples of 16"):
        fp8_products.linear(leaf(5, shape[1]), leaf(*shape))


@pytest.fixture
def on_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return pytest.importorskip("helix.kernels.triton_fp8", exc_type=ImportError)


def bf16(*shape, std=1.0):
    return (torch.randn(shape) * std).cuda().bfloat16()


@pytest.mark.gpu
@each_format
@pytest.mark.parametrize("shape", [(1, 16), (37, 80), (1000, 1280), (4096, 8192)])
@pytest.mark.parametrize("size", [1e-20, 1.0, 3e4])
def test_gpu_rounds_to_the_same_bits(on_gpu, kind, shape, size):
    x = bf16(*shape, std=size)
    actual, expected = on_gpu.quantise(x, kind), fp8.quantise(x, kind)
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a.inverse, e.inverse)
        assert torch.equal(a.values.view(torch.uint8), e.values.view(torch.uint8))


@pytest.mark.gpu
@pytest.mark.parametrize("wrong", [torch.inf, torch.nan])
def test_gpu_shows_what_is_not_finite(on_gpu, wrong):
    x = bf16(100, 64)
    x[70, 3] = wrong
    assert on_gpu.quantise(x, E4M3).rows.inverse.isnan().all()


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "f"), [(1, 16), (70, 144), (1000, 4096), (33, 8064)])
def test_gpu_gates_alike(on_gpu, n, f):
    gate_up, d_y = bf16(n, 2 * f, std=3), bf16(n, f, std=1e-4)
    actual, expected = on_gpu.glu(gate_up, E4M3), fp8.glu(gate_up, E4M3)
    assert relative_error(dequantise(actual.rows), dequantise(expected.rows)) < 5e-3
    assert_close(actual.largest, expected.largest)
    arguments = gate_up, d_y, expected.largest, E4M3, E5M2
    (both, y), (their_both, their_y) = (p.glu_gradient(*arguments) for p in (on_gpu, fp8))
    for a, e in zip((*both, y), (*their_both, their_y), strict=True):
        assert torch.equal(a.inverse, e.inverse)
        assert relative_error(dequantise(a), dequantise(e)) < 5e-3


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "n_vocab"), [(1, 512), (70, 5008), (512, 200_064)])
def test_gpu_differentiates_the_loss_alike(on_gpu, n, n_vocab):
    logits, targets = bf16(n, n_vocab, std=3), torch.randint(n_vocab, (n,)).cuda()
    targets[::5] = -100
    results = []
    for p in (on_gpu, fp8):
        columns = fp8.empty_transposed(n, n_vocab, E5M2, logits.device)
        losses, rows = p.softmax_gradient(logits, targets, columns, E5M2, ignored=-100)
        assert torch.equal(
            columns[:, :n].T.contiguous().view(torch.uint8), rows.values.view(torch.uint8)
        )
        results.append((losses, dequantise(rows)))
    (losses, rows), (their_losses, their_rows) = results
    assert_close(losses, their_losses)
    assert relative_error(rows, their_rows) < 5e-3


@pytest.mark.gpu
@each_format
@pytest.mark.parametrize("terms", [64, 1280, 4096, 32768])
@pytest.mark.parametrize("n_scales", [1, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gpu_multiplies_alike(on_gpu, kind, terms, n_scales, dtype):
    a, b = fp8.quantise(bf16(256, terms), kind).rows, fp8.quantise(bf16(384, terms), E4M3).rows
    a = Operand(a.values, (a.inverse * torch.rand(n_scales, 1).cuda()).contiguous())
    assert relative_error(on_gpu.product(a, b, dtype), fp8.product(a, b, torch.float32)) < 5e-3


@pytest.mark.gpu
def test_gpu_trains_alike_and_the_same_each_time(on_gpu):
    options = {"dtype": torch.bfloat16, "device": "cuda"}
    inputs = ffn_inputs(3, 333, d_model=256, d_ffn=512, **options)
    hidden, weight, targets = head_inputs(700, n_vocab=8000, d=256, **options)
    head = {"chunk_rows": 256}
    runs = [
        (on_gpu.swiglu(*inputs), fp8_products.swiglu(*inputs), inputs),
        (on_gpu.linear(*inputs[:2]), fp8_products.linear(*inputs[:2]), inputs[:2]),
        (
            on_gpu.linear_cross_entropy(hidden, weight, targets, **head),
            fp8_products.linear_cross_entropy(hidden, weight, targets, **head),
            [hidden, weight],
        ),
    ]
    for actual, expected, leaves in runs:
        assert_near(actual, expected, leaves, bound=2e-2)
    again = on_gpu.swiglu(*inputs)
    assert torch.equal(again, runs[0][0])
    for a, b in zip(
        gradients(again, inputs), gradients(on_gpu.swiglu(*inputs), inputs), strict=True
    ):
        assert torch.equal(a, b)
