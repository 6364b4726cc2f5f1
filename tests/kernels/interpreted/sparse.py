"""Runs our Triton sparse attention under Triton's interpreter; test_triton.py starts it."""

import torch

from helix.kernels import sparse
from helix.kernels import triton_sparse as gpu_sparse
from tests.kernels.interpreted.checks import assert_same, leaf, run
from tests.numerics import draw_starts, positions_of


def starts_at(n_tokens, *places):
    starts = torch.zeros(1, n_tokens, dtype=torch.bool)
    starts[0, list(places)] = True
    return starts


def check(starts, *, window_tokens, n_global, n_heads=(2, 2), width=16):
    """Compare outputs, gradients and memory; `v` is a slice, as of a projection."""
    n_rows, n_tokens = starts.shape
    q = leaf(n_rows, n_tokens, n_heads[0], width)
    k = leaf(n_rows, n_tokens, n_heads[1], width)
    whole = leaf(n_rows, n_tokens, n_heads[1] + 1, width)
    inputs, positions = (q, k, whole[:, :, 1:]), positions_of(starts)
    limits = {"window_tokens": window_tokens, "n_global": n_global}
    y, memory = gpu_sparse.sparse(*inputs, positions, **limits)
    expected = sparse.sparse_reference(*inputs, positions, **limits)
    assert_same(y, expected, [q, k, whole])
    _, last = sparse.sparse_blocked(*inputs, positions, **limits)
    assert all(torch.equal(a, e) for a, e in zip(memory, last, strict=True))


def check_any_window_and_documents():
    starts = draw_starts(2, 150, chance=0.03)
    for window_tokens, n_global in ((100, 8), (16, 20), (1, 8), (1, 0), (300, 8)):
        check(starts, window_tokens=window_tokens, n_global=n_global)


def check_borders_of_blocks_and_chunks():
    for places in ((0, 32, 128), (0, 31, 127), (0, 5, 8, 9, 33, 90)):
        check(starts_at(200, *places), window_tokens=40, n_global=8)
    check(draw_starts(1, 130, chance=0.5), window_tokens=16, n_global=4)


def check_first_tokens_far_behind():
    check(starts_at(400, 0), window_tokens=64, n_global=8)
    check(starts_at(330, 0, 28), window_tokens=64, n_global=40)  # over two blocks of keys
    check(starts_at(330, 100), window_tokens=1, n_global=70)
    check(starts_at(300, 20, 23, 26), window_tokens=5, n_global=2)


def check_rows_that_begin_within_a_document():
    limits = {"window_tokens": 50, "n_global": 20}
    inputs = [leaf(2, 256, 2, 16) for _ in range(3)]
    positions = torch.arange(256) + torch.tensor([[13], [1000]])
    positions[:, 200:] = torch.arange(56)
    y, _ = gpu_sparse.sparse(*inputs, positions, **limits)
    assert_same(y, sparse.sparse_reference(*inputs, positions, **limits), inputs)


def check_grouped_heads_and_widths():
    starts = draw_starts(2, 140, chance=0.02)
    for n_heads, width in (((4, 2), 16), ((2, 1), 48), ((3, 1), 80)):
        check(starts, window_tokens=30, n_global=8, n_heads=n_heads, width=width)


def check_any_cut_into_blocks():
    shipped = gpu_sparse.FLOAT32
    for cut in ((64, 16), (16, 64)):
        gpu_sparse.FLOAT32 = gpu_sparse.Blocks(*cut, 4, 1)
        check(starts_at(300, 0, 40, 47), window_tokens=50, n_global=20)
    gpu_sparse.FLOAT32 = shipped


def check_documents_are_isolated():
    q, k, v = (torch.randn(1, 256, 2, 16) for _ in range(3))
    positions = positions_of(starts_at(256, 0, 75, 200))
    limits = {"window_tokens": 40, "n_global": 8}
    y, _ = gpu_sparse.sparse(q, k, v, positions, **limits)
    for x in (k, v):
        x[:, 75:200] = torch.randn(1, 125, 2, 16)
    other, _ = gpu_sparse.sparse(q, k, v, positions, **limits)
    assert torch.equal(y[:, :75], other[:, :75])
    assert torch.equal(y[:, 200:], other[:, 200:])
    assert not torch.equal(y[:, 75:200], other[:, 75:200])


if __name__ == "__main__":
    gpu_sparse.FLOAT32 = gpu_sparse.Blocks(32, 32, 4, 1)
    gpu_sparse.CHUNK_TOKENS = 64
    run(
        check_any_window_and_documents,
        check_borders_of_blocks_and_chunks,
        check_first_tokens_far_behind,
        check_rows_that_begin_within_a_document,
        check_grouped_heads_and_widths,
        check_any_cut_into_blocks,
        check_documents_are_isolated,
    )
