"""Every adapter is held to our float32 forms on a GPU: outputs, state, gradients, packed rows."""

import pytest
import torch
from torch.nn import functional as F

from helix import kernels
from helix.kernels import pointwise
from helix.kernels.conv import causal_conv
from helix.kernels.cross_entropy import cross_entropy_reference
from helix.kernels.gla import gla_chunked
from helix.kernels.sparse import sparse_reference
from helix.kernels.ssd import ssd_chunked
from tests.numerics import BOUNDS, assert_close, draw_starts, gradients, positions_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LENGTHS = [1, 63, 64, 1000, 4096]
DTYPE = torch.bfloat16


def adapters(name):
    """The backends of a kernel other than our own PyTorch form that can run here."""
    return [r.backend for r in kernels.candidates(name) if r.available and r.backend != "reference"]


def draw(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).cuda()


def pair(*tensors):
    """Give leaves in float32 and the same numbers in bfloat16, rounded alike."""
    rounded = [x.to(DTYPE) for x in tensors]
    return (
        [x.float().requires_grad_() for x in rounded],
        [x.clone().requires_grad_() for x in rounded],
    )


def assert_same(actual, inputs, expected, truths):
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, dtype=DTYPE)
    for a, e in zip(gradients(actual, inputs), gradients(expected, truths), strict=True):
        assert a.isfinite().all()
        assert_close(a, e, dtype=DTYPE)


@pytest.mark.parametrize("backend", adapters("gla"))
@pytest.mark.parametrize("n_tokens", LENGTHS)
@pytest.mark.parametrize("with_state", [True, False])
def test_gla_adapter_equals_the_reference(backend, n_tokens, with_state):
    shapes = [(2, n_tokens, 2, width) for width in (64, 64, 128)]
    truths, inputs = pair(*(draw(*shape, seed=i) for i, shape in enumerate(shapes)))
    decay = (F.logsigmoid(draw(2, n_tokens, 2, 64, seed=3)) / 4).requires_grad_()
    state = draw(2, 2, 64, 128, seed=4).requires_grad_() if with_state else None
    starts = draw_starts(2, n_tokens, chance=0.01).cuda()
    extra = [decay] + ([state] if with_state else [])
    expected = gla_chunked(*truths, decay, starts, state)
    actual = kernels.select("gla", backend)(*inputs, decay, starts, state)
    assert_same(actual, inputs + extra, expected, truths + extra)


@pytest.mark.parametrize("widths", [(8, 16), (16, 32), (32, 64), (128, 256)])
def test_gla_of_any_width_equals_the_reference(widths):
    shapes = [(2, 256, 2, width) for width in (widths[0], *widths)]
    truths, inputs = pair(*(draw(*shape, seed=i) for i, shape in enumerate(shapes)))
    decay = (F.logsigmoid(draw(2, 256, 2, widths[0], seed=3)) / 4).requires_grad_()
    starts = draw_starts(2, 256, chance=0.01).cuda()
    expected = gla_chunked(*truths, decay, starts)
    actual = kernels.select("gla", "triton")(*inputs, decay, starts)
    assert_same(actual, [*inputs, decay], expected, [*truths, decay])


@pytest.mark.parametrize("backend", adapters("gla"))
@pytest.mark.parametrize("strength", [-5.0, -50.0])
def test_gla_adapter_stays_finite_at_strong_decay(backend, strength):
    _, inputs = pair(*(draw(2, 500, 2, width, seed=width) for width in (64, 64, 128)))
    decay = torch.full((2, 500, 2, 64), -0.1, device="cuda")
    decay[:, 100:300, :, ::2] = strength
    decay.requires_grad_()
    starts = draw_starts(2, 500).cuda()
    outputs = kernels.select("gla", backend)(*inputs, decay, starts)
    truth = gla_chunked(*(x.float() for x in inputs), decay, starts)
    assert_close(outputs[0], truth[0], dtype=DTYPE)
    assert all(x.isfinite().all() for x in gradients(outputs, [*inputs, decay]))


@pytest.mark.parametrize("backend", adapters("ssd"))
@pytest.mark.parametrize("n_tokens", LENGTHS)
@pytest.mark.parametrize("with_state", [True, False])
def test_ssd_adapter_equals_the_reference(backend, n_tokens, with_state):
    x, b, c = ((2, n_tokens, 4, 64), (2, n_tokens, 1, 64), (2, n_tokens, 1, 64))
    truths, inputs = pair(*(draw(*shape, seed=i) for i, shape in enumerate((x, b, c))))
    dt = F.softplus(draw(2, n_tokens, 4, seed=3) - 3).requires_grad_()
    a = (-draw(4, seed=4).exp() * 4).requires_grad_()
    skip = draw(4, seed=6).requires_grad_()
    state = draw(2, 4, 64, 64, seed=5).requires_grad_() if with_state else None
    starts = draw_starts(2, n_tokens, chance=0.01).cuda()
    extra = [dt, a, skip] + ([state] if with_state else [])
    expected = ssd_chunked(truths[0], dt, a, truths[1], truths[2], skip, starts, state)
    scan = kernels.select("ssd", backend)
    actual = scan(inputs[0], dt, a, inputs[1], inputs[2], skip, starts, state)
    for x, y in zip(actual, expected, strict=True):
        assert_close(x, y, dtype=DTYPE)
    names = ["x", "b", "c", "dt", "a", "skip", "state"]
    found = dict(zip(names, gradients(actual, inputs + extra), strict=False))
    truth = dict(zip(names, gradients(expected, truths + extra), strict=False))
    # The gradient of a sums n_tokens terms of either sign and may cancel to nothing: each head's is
    # held to the size of its terms.
    size = (dt * truth["dt"]).square().sum((0, 1)).sqrt() / a.abs()
    assert ((found.pop("a") - truth.pop("a")).abs() <= BOUNDS[DTYPE] * size).all()
    for name, gradient in found.items():
        assert gradient.isfinite().all(), name
        assert_close(gradient, truth[name], dtype=DTYPE)


@pytest.mark.parametrize("backend", adapters("ssd"))
def test_ssd_adapter_is_right_beyond_32_bit_offsets(backend):
    n_tokens = 70_000
    x, b, c = (
        draw(1, n_tokens, *rest, seed=i) for i, rest in enumerate([(4, 64), (1, 64), (1, 64)])
    )
    dt, a = F.softplus(draw(1, n_tokens, 4, seed=3) - 3), -draw(4, seed=4).exp()
    starts, skip = draw_starts(1, n_tokens, chance=1e-4).cuda(), draw(4, seed=6)
    with torch.no_grad():
        expected = ssd_chunked(x.to(DTYPE).float(), dt, a, b, c, skip, starts)
        actual = kernels.select("ssd", backend)(
            x.to(DTYPE), dt, a, b.to(DTYPE), c.to(DTYPE), skip, starts
        )
    assert_close(actual[0][:, -5000:], expected[0][:, -5000:], dtype=DTYPE)
    assert_close(actual[1], expected[1], dtype=DTYPE)


@pytest.mark.parametrize("backend", adapters("conv"))
@pytest.mark.parametrize("n_tokens", LENGTHS)
@pytest.mark.parametrize("silu", [True, False])
def test_conv_adapter_equals_the_reference(backend, n_tokens, silu):
    shapes = [(2, n_tokens, 96), (96, 4), (96,)]
    truths, inputs = pair(*(draw(*shape, seed=i) for i, shape in enumerate(shapes)))
    starts = draw_starts(2, n_tokens).cuda()
    expected = causal_conv(*truths, starts, silu=silu)
    actual = kernels.select("conv", backend)(*inputs, starts, silu=silu)
    assert_same(actual, inputs, expected, truths)


@pytest.mark.parametrize("backend", adapters("conv"))
@pytest.mark.parametrize(("n_channels", "n_taps"), [(2816, 4), (300, 2), (7, 3), (64, 1)])
def test_conv_adapter_takes_any_width(backend, n_channels, n_taps):
    shapes = [(3, 333, n_channels + 16), (n_channels, n_taps), (n_channels,)]
    truths, inputs = pair(*(draw(*shape, seed=i) for i, shape in enumerate(shapes)))
    starts = draw_starts(3, 333, chance=0.1).cuda()
    expected = causal_conv(truths[0][..., 16:], *truths[1:], starts, silu=True)
    conv = kernels.select("conv", backend)
    actual = conv(inputs[0][..., 16:], *inputs[1:], starts, silu=True)
    assert_same(actual, inputs, expected, truths)


@pytest.mark.parametrize("backend", adapters("conv"))
def test_conv_adapter_leaves_our_tail_and_reads_slices(backend):
    whole, starts = draw(2, 200, 160, seed=0).to(DTYPE), draw_starts(2, 200).cuda()
    weight, bias = draw(96, 4, seed=1).to(DTYPE), draw(96, seed=2).to(DTYPE)
    x = whole[..., 32:128]
    y, tail = kernels.select("conv", backend)(x, weight, bias, starts)
    expected, last = causal_conv(x.contiguous(), weight, bias, starts)
    assert_close(y, expected)
    assert torch.equal(tail, last)


@pytest.mark.parametrize("backend", adapters("rms_norm"))
@pytest.mark.parametrize("shape", [(1, 7), (3, 63, 128), (2, 100, 5, 256), (4, 33, 1280)])
def test_norm_adapter_equals_the_reference(backend, shape):
    truths, inputs = pair(draw(*shape, seed=0), 1 + draw(shape[-1], seed=1) / 4)
    expected = pointwise.rms_norm(*truths, eps=1e-6)
    actual = kernels.select("rms_norm", backend)(*inputs, eps=1e-6)
    assert_same((actual,), inputs, (expected,), truths)


@pytest.mark.parametrize("backend", adapters("residual_norm"))
@pytest.mark.parametrize("shape", [(1, 1, 7), (3, 63, 128), (2, 500, 1280), (2, 300, 8192)])
@pytest.mark.parametrize("is_added", [True, False])
def test_residual_norm_adapter_equals_the_reference(backend, shape, is_added):
    shapes = [shape, *[shape] * is_added]
    truths, inputs = pair(
        *(draw(*s, seed=i) for i, s in enumerate(shapes)), 1 + draw(shape[-1], seed=2) / 4
    )
    norm = kernels.select("residual_norm", backend)
    expected, actual = (
        f(x, added[0] if is_added else None, weight, eps=1e-6)
        for f, (x, *added, weight) in ((pointwise.residual_norm, truths), (norm, inputs))
    )
    assert_same(actual, inputs, expected, truths)


@pytest.mark.parametrize("backend", adapters("gated_norm"))
@pytest.mark.parametrize("gate_first", [True, False])
@pytest.mark.parametrize(
    ("n_tokens", "n_heads", "d"),
    [(1, 1, 7), (63, 3, 48), (700, 5, 256), (700, 1, 2560), (500, 2, 320), (300, 1, 8192)],
)
def test_gated_norm_adapter_equals_the_reference(backend, gate_first, n_tokens, n_heads, d):
    whole = draw(2, n_tokens, (n_heads + 1) * d + 32, seed=0)
    x, weight = draw(2, n_tokens, n_heads, d, seed=1), 1 + draw(d, seed=2) / 4
    truths, inputs = pair(whole, x, weight)
    norm = kernels.select("gated_norm", backend)
    expected, actual = (
        f(
            x,
            whole[..., 32 : 32 + n_heads * d].unflatten(-1, (n_heads, d)),
            weight,
            eps=1e-6,
            gate_first=gate_first,
        )
        for f, (whole, x, weight) in ((pointwise.gated_norm, truths), (norm, inputs))
    )
    assert_same((actual,), inputs, (expected,), truths)


@pytest.mark.parametrize("backend", adapters("rms_norm"))
def test_norms_are_the_same_from_run_to_run(backend):
    _, inputs = pair(draw(4, 3000, 1280, seed=0), 1 + draw(1280, seed=1) / 4)
    norm = kernels.select("rms_norm", backend)
    first, second = (gradients(norm(*inputs, eps=1e-6), inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("backend", adapters("log_decay"))
@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 333, 640)])
@pytest.mark.parametrize("shift", [0.0, 9.0, -20.0])
def test_log_decay_adapter_equals_the_reference(backend, shape, shift):
    truths, inputs = pair(draw(*shape, seed=0) + shift)
    actual = kernels.select("log_decay", backend)(*inputs, temperature=16.0)
    assert actual.dtype == torch.float32
    expected = pointwise.log_decay(*truths, temperature=16.0)
    assert_close(actual, expected, dtype=torch.float32)
    assert_same((actual,), inputs, (expected,), truths)


@pytest.mark.parametrize("backend", adapters("rotary"))
@pytest.mark.parametrize("d", [2, 6, 64, 128, 320])
@pytest.mark.parametrize("layout", ["slice of a projection", "heads before time"])
def test_rotary_adapter_equals_the_reference(backend, d, layout):
    truths, inputs = pair(draw(2, 777, 6, d, seed=0))
    angle = draw(2, 777, d // 2, seed=1) * 100
    turn, cos, sin = kernels.select("rotary", backend), angle.cos(), angle.sin()

    def part(whole):
        x = whole[:, :, 1:5]
        return x if layout == "slice of a projection" else x.mT.contiguous().mT

    actual, expected = turn(part(inputs[0]), cos, sin), pointwise.rotary(part(truths[0]), cos, sin)
    assert actual.is_contiguous()
    assert_same((actual,), inputs, (expected,), truths)


BEYOND = 2**31 + 2**28  # numbers of a tensor, more than 32 bits count


@pytest.mark.parametrize("backend", adapters("gated_norm"))
def test_norms_are_right_beyond_32_bit_offsets(backend):
    whole = torch.randn(BEYOND // 8192 + 1, 2, 4096, device="cuda", dtype=DTYPE)
    weight = torch.ones(4096, device="cuda", dtype=DTYPE)
    norm, gated = (kernels.select(name, backend) for name in ("rms_norm", "gated_norm"))
    last = whole[-3:]
    with torch.no_grad():
        assert torch.equal(norm(whole, weight, eps=1e-6)[-3:], norm(last, weight, eps=1e-6))
        x, gate = whole.unbind(1)
        y = gated(x, gate, weight, eps=1e-6, gate_first=True)
        assert torch.equal(y[-3:], gated(x[-3:], gate[-3:], weight, eps=1e-6, gate_first=True))
    x = whole.requires_grad_()
    (d_x,) = torch.autograd.grad(norm(x, weight, eps=1e-6).sum(), [x])
    expected = torch.autograd.grad(norm(x[-3:], weight, eps=1e-6).sum(), [x])[0][-3:]
    assert torch.equal(d_x[-3:], expected)


@pytest.mark.parametrize("backend", adapters("conv"))
def test_conv_adapter_is_right_beyond_32_bit_offsets(backend):
    x = torch.randn(1, BEYOND // 2816 + 1, 2816, device="cuda", dtype=DTYPE).requires_grad_()
    weight = draw(2816, 4, seed=1).to(DTYPE)
    starts = torch.zeros(x.shape[:2], dtype=torch.bool, device="cuda")
    starts[:, -300] = True
    conv = kernels.select("conv", backend)
    last = x[:, -300:].detach().requires_grad_()
    y, _ = conv(x, weight, None, starts, silu=True)
    expected, _ = conv(last, weight, None, starts[:, -300:], silu=True)
    assert torch.equal(y[:, -300:], expected)
    (d_x,), (d_last,) = (
        torch.autograd.grad(y.sum(), [x]),
        torch.autograd.grad(expected.sum(), [last]),
    )
    assert torch.equal(d_x[:, -300:], d_last)


@pytest.mark.parametrize("backend", adapters("glu"))
@pytest.mark.parametrize("shape", [(1, 2), (3, 63, 192), (2, 100, 8192)])
def test_glu_adapter_equals_the_reference(backend, shape):
    truths, inputs = pair(draw(*shape, seed=0))
    actual = kernels.select("glu", backend)(*inputs)
    assert_same((actual,), inputs, (pointwise.glu(*truths),), truths)


@pytest.mark.parametrize("backend", adapters("sparse"))
@pytest.mark.parametrize("n_tokens", [1, 63, 128, 1000, 1024, 4096])
def test_sparse_adapter_equals_the_reference_and_leaves_our_memory(backend, n_tokens):
    shapes = [(2, n_tokens, heads, 64) for heads in (4, 2, 2)]
    truths, inputs = pair(*(draw(*shape, seed=i) for i, shape in enumerate(shapes)))
    # of 4096 tokens, a document of some 1,000 runs far beyond what the window reaches
    positions = positions_of(draw_starts(2, n_tokens, chance=5 / max(n_tokens, 1000))).cuda()
    limits = {"window_tokens": 100, "n_global": 8}
    y, memory = kernels.select("sparse", backend)(*inputs, positions, **limits)
    assert_same((y,), inputs, (sparse_reference(*truths, positions, **limits),), truths)
    _, expected = kernels.select("sparse", "reference")(*inputs, positions, **limits)
    for a, e in zip(memory, expected, strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("backend", adapters("attention"))
@pytest.mark.parametrize("n_tokens", [1, 128, 1000])
def test_attention_adapter_equals_the_reference(backend, n_tokens):
    shapes = [(2, n_tokens, heads, 64) for heads in (4, 2, 2)]
    truths, inputs = pair(*(draw(*shape, seed=i) for i, shape in enumerate(shapes)))
    positions = positions_of(draw_starts(2, n_tokens, chance=0.005)).cuda()
    y, _ = kernels.select("attention", backend)(*inputs, positions)
    whole = {"window_tokens": n_tokens, "n_global": 0}
    assert_same((y,), inputs, (sparse_reference(*truths, positions, **whole),), truths)


@pytest.mark.parametrize("backend", ["reference", *adapters("cross_entropy")])
def test_loss_equals_the_dense_one_on_the_gpu(backend):
    truths, inputs = pair(draw(700, 256, seed=0), draw(8000, 256, seed=1) / 16)
    targets = torch.randint(8000, (700,), generator=torch.Generator().manual_seed(2)).cuda()
    targets[::5] = -100
    kernel = kernels.select("cross_entropy", backend)
    actual = kernel(*inputs, targets, chunk_rows=256)
    assert_same((actual,), inputs, (cross_entropy_reference(*truths, targets),), truths)
    with torch.no_grad():
        assert_close(kernel(*inputs, targets, chunk_rows=256), actual, dtype=torch.float32)
