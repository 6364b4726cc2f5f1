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
from tests.numerics import assert_close, draw_starts, gradients, positions_of

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
    assert_same(actual, inputs + extra, expected, truths + extra)


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
def test_conv_adapter_equals_the_reference(backend, n_tokens):
    shapes = [(2, n_tokens, 96), (96, 4), (96,)]
    truths, inputs = pair(*(draw(*shape, seed=i) for i, shape in enumerate(shapes)))
    starts = draw_starts(2, n_tokens).cuda()
    expected = causal_conv(*truths, starts)
    actual = kernels.select("conv", backend)(*inputs, starts)
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


@pytest.mark.parametrize("backend", adapters("glu"))
@pytest.mark.parametrize("shape", [(1, 2), (3, 63, 192), (2, 100, 8192)])
def test_glu_adapter_equals_the_reference(backend, shape):
    truths, inputs = pair(draw(*shape, seed=0))
    actual = kernels.select("glu", backend)(*inputs)
    assert_same((actual,), inputs, (pointwise.glu(*truths),), truths)


@pytest.mark.parametrize("backend", adapters("sparse"))
@pytest.mark.parametrize("n_tokens", [1, 63, 128, 1000, 1024])
def test_sparse_adapter_equals_the_reference_and_leaves_our_memory(backend, n_tokens):
    shapes = [(2, n_tokens, heads, 64) for heads in (4, 2, 2)]
    truths, inputs = pair(*(draw(*shape, seed=i) for i, shape in enumerate(shapes)))
    positions = positions_of(draw_starts(2, n_tokens, chance=0.005)).cuda()
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
