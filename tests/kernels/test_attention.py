"""Full attention and window attention, each against its dense form."""

import importlib.util
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from helix.kernels.attention import attention, attention_reference, document_origins
from helix.kernels.sparse import sparse_blocked, sparse_reference
from tests.numerics import assert_close, draw_starts, gradients, positions_of


def qkv(n_tokens, *, n_heads=4, n_kv_heads=2, d_head=8, dtype=torch.float32):
    torch.manual_seed(0)
    heads = (n_heads, n_kv_heads, n_kv_heads)
    return [torch.randn(2, n_tokens, n, d_head, dtype=dtype, requires_grad=True) for n in heads]


def draw_positions(n_tokens, *, chance=0.02, seed=0):
    starts = draw_starts(2, n_tokens, chance=chance, seed=seed)
    starts[:, 0] = True
    return positions_of(starts)


def assert_same_with_gradients(actual, expected, inputs):
    assert_close(actual, expected)
    for a, e in zip(gradients(actual, inputs), gradients(expected, inputs), strict=True):
        assert_close(a, e)


def in_two_calls(kernel, inputs, positions, cut):
    head, memory = kernel(*(x[:, :cut] for x in inputs), positions[:, :cut])
    tail, memory = kernel(*(x[:, cut:] for x in inputs), positions[:, cut:], memory)
    return torch.cat((head, tail), dim=1), memory


@pytest.mark.parametrize("n_tokens", [1, 63, 64, 1000])
@pytest.mark.parametrize("n_kv_heads", [1, 4])
def test_attention_equals_reference(n_tokens, n_kv_heads):
    inputs, positions = qkv(n_tokens, n_kv_heads=n_kv_heads), draw_positions(n_tokens)
    expected, _ = attention_reference(*inputs, positions)
    actual, _ = attention(*inputs, positions)
    assert_same_with_gradients(actual, expected, inputs)


def test_flex_attention_compiles_for_no_shape_that_is_scored(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    spec = importlib.util.find_spec("helix.kernels.flex_ops")
    flex_ops = importlib.util.module_from_spec(spec)  # in no table: there is no GPU
    spec.loader.exec_module(flex_ops)
    monkeypatch.setattr(flex_ops, "compiled_mask", None)
    inputs, positions = qkv(192, d_head=16), draw_positions(192)
    limits = {"window_tokens": 20, "n_global": 4}
    with torch.no_grad():
        actual, _ = flex_ops.attention(*inputs, positions)
        sparse, _ = flex_ops.sparse(*inputs, positions, **limits)
    assert_close(actual, attention_reference(*inputs, positions)[0])
    assert_close(sparse, sparse_reference(*inputs, positions, **limits))
    with pytest.raises(TypeError, match="NoneType"):  # in training it would be
        flex_ops.attention(*inputs, positions)


@pytest.mark.parametrize("kernel", [attention, attention_reference])
@pytest.mark.parametrize("cut", [1, 40, 63])
def test_attention_memory_carries_over_a_cut(kernel, cut):
    inputs, positions = qkv(64), draw_positions(64, chance=0.05)
    whole, last = kernel(*inputs, positions)
    actual, memory = in_two_calls(kernel, inputs, positions, cut)
    assert_same_with_gradients(actual, whole, inputs)
    assert all(torch.equal(a, b) for a, b in zip(memory, last, strict=True))


def test_one_document_is_plain_causal_attention():
    inputs, positions = qkv(50, n_kv_heads=4), torch.arange(50).expand(2, -1)
    plain = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in inputs), is_causal=True)
    assert_close(attention(*inputs, positions)[0], plain.transpose(1, 2))


@pytest.mark.parametrize("kernel", [attention, attention_reference])
def test_attention_gradients_are_those_of_finite_differences(kernel):
    inputs, positions = qkv(5, dtype=torch.float64, d_head=2), draw_positions(5, chance=0.3)
    assert torch.autograd.gradcheck(lambda *x: kernel(*x, positions)[0], inputs)


@pytest.mark.parametrize("n_tokens", [1, 63, 64, 1000])
@pytest.mark.parametrize(
    ("window_tokens", "n_global"), [(1, 0), (1, 3), (20, 0), (20, 3), (130, 200)]
)
def test_blocked_equals_reference(n_tokens, window_tokens, n_global):
    inputs, positions = qkv(n_tokens), draw_positions(n_tokens, chance=0.005)
    shape = {"window_tokens": window_tokens, "n_global": n_global}
    expected = sparse_reference(*inputs, positions, **shape)
    actual, _ = sparse_blocked(*inputs, positions, **shape, block_tokens=64)
    assert_same_with_gradients(actual, expected, inputs)


@pytest.mark.parametrize(
    "kernel", [sparse_reference, lambda *x, **shape: sparse_blocked(*x, **shape, block_tokens=3)[0]]
)
def test_sparse_gradients_are_those_of_finite_differences(kernel):
    inputs, positions = qkv(7, dtype=torch.float64, d_head=2), draw_positions(7, chance=0.15)
    shape = {"window_tokens": 2, "n_global": 1}
    assert torch.autograd.gradcheck(lambda *x: kernel(*x, positions, **shape), inputs)


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_blocked_equals_reference_over_any_cut(data):
    n_tokens = data.draw(st.integers(2, 40))
    cut = data.draw(st.integers(1, n_tokens - 1))
    shape = {
        "window_tokens": data.draw(st.integers(1, 45)),
        "n_global": data.draw(st.integers(0, 6)),
    }
    block_tokens = data.draw(st.integers(1, 45))
    chance, seed = data.draw(st.sampled_from([0.0, 0.1, 0.4])), data.draw(st.integers(0, 99))
    inputs, positions = qkv(n_tokens), draw_positions(n_tokens, chance=chance, seed=seed)
    kernel = partial(sparse_blocked, **shape, block_tokens=block_tokens)
    expected = sparse_reference(*inputs, positions, **shape)
    actual, memory = in_two_calls(kernel, inputs, positions, cut)
    assert_same_with_gradients(actual, expected, inputs)
    _, last = kernel(*inputs, positions)
    assert all(torch.equal(a, b) for a, b in zip(memory, last, strict=True))


@pytest.mark.parametrize("window_tokens", [64, 1000])
def test_window_as_long_as_the_row_is_full_attention(window_tokens):
    inputs, positions = qkv(64), draw_positions(64)
    y, _ = sparse_blocked(*inputs, positions, window_tokens=window_tokens, n_global=2)
    assert_close(y, attention(*inputs, positions)[0])


def hearers(key, *, n_tokens=30, window_tokens=4, n_global=2, start=0):
    """List the queries whose output feels a change of one value."""
    q, k, v = qkv(n_tokens)
    positions = (torch.arange(n_tokens) - start).where(torch.arange(n_tokens) >= start, 0)
    positions[:start] = torch.arange(start)
    run = partial(sparse_blocked, window_tokens=window_tokens, n_global=n_global, block_tokens=5)
    positions = positions.expand(2, -1)
    changed = v.detach().clone()
    changed[:, key] += 1
    difference = run(q, k, changed, positions)[0] - run(q, k, v, positions)[0]
    return difference.abs().amax((0, 2, 3)).nonzero().flatten().tolist()


def test_window_ends_where_it_says():
    assert hearers(10) == [10, 11, 12, 13]


def test_first_tokens_are_heard_from_anywhere_in_their_document_only():
    assert hearers(1) == list(range(1, 30))
    assert hearers(1, start=12) == list(range(1, 12))
    assert hearers(13, start=12) == list(range(13, 30))
    assert hearers(14, start=12) == [14, 15, 16, 17]


def test_memory_does_not_grow():
    kernel = partial(sparse_blocked, window_tokens=5, n_global=2)
    memories = [kernel(*qkv(n), draw_positions(n))[1] for n in (1, 4, 90)]
    assert len({tuple(x.shape for x in memory) for memory in memories}) == 1


def test_half_precision_goes_in_and_comes_out():
    inputs, positions = [x.detach().bfloat16() for x in qkv(80)], draw_positions(80)
    expected = sparse_reference(
        *(x.float() for x in inputs), positions, window_tokens=9, n_global=2
    )
    y, memory = sparse_blocked(*inputs, positions, window_tokens=9, n_global=2)
    assert y.dtype == memory.recent_keys.dtype == torch.bfloat16
    assert_close(y, expected)


def test_origins_tell_documents_apart():
    positions = torch.tensor([[3, 4, 0, 1, 0]])
    assert document_origins(positions).tolist() == [[-3, -3, 2, 2, 4]]
