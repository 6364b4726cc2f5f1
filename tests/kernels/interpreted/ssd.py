"""Runs our Triton scan of Mamba-2 on a CPU under the interpreter; test_triton.py starts it."""

import torch
from torch.nn import functional as F

from helix.kernels import triton_ssd as gpu_ssd
from helix.kernels.ssd import ssd_chunked, ssd_reference
from tests.kernels.interpreted.checks import leaf, run
from tests.numerics import BOUNDS, assert_close, gradients


def inputs_of(n_tokens, *, n_heads=2, n_groups=1, p=16, n=16, n_rows=2):
    """Give x, dt, a, b, c, skip, a state; x, b and c are slices of one tensor."""
    widths = [n_heads * p, n_groups * n, n_groups * n]
    x, b, c = torch.randn(n_rows, n_tokens, sum(widths)).split(widths, dim=-1)
    x, b, c = x.unflatten(-1, (-1, p)), b.unflatten(-1, (-1, n)), c.unflatten(-1, (-1, n))
    dt = F.softplus(torch.randn(n_rows, n_tokens, n_heads) - 2)
    a, state = -4 * torch.rand(n_heads), leaf(n_rows, n_heads, p, n)
    assert not x.is_contiguous()
    return [*(z.detach().requires_grad_() for z in (x, dt, a, b, c)), leaf(n_heads), state]


def starts_at(n_tokens, *places, n_rows=2):
    starts = torch.zeros(n_rows, n_tokens, dtype=torch.bool)
    starts[0, [place for place in places if place < n_tokens]] = True
    return starts


def compare(inputs, starts, *, with_state=True, truth=ssd_chunked):
    *given, state = inputs
    leaves = inputs if with_state else given
    state = state if with_state else None
    actual, expected = gpu_ssd.ssd(*given, starts, state), truth(*given, starts, state)
    for result, wanted in zip(actual, expected, strict=True):
        assert_close(result, wanted)
    actual, expected = gradients(actual, leaves), gradients(expected, leaves)
    for place in range(len(leaves)):
        if place != 2:
            assert_close(actual[place], expected[place])
    # that of a sums over tokens what may cancel: its error is held against what it sums
    dt, a = given[1:3]
    terms = (dt * expected[1]).square().sum((0, 1)).sqrt() / a.abs()
    assert ((actual[2] - expected[2]).abs() <= BOUNDS[torch.float32] * terms).all()


def check_lengths_and_documents() -> None:
    for n_tokens in (64, 65, 130, 300):
        starts = starts_at(n_tokens, 0, 20, 40, 41, 42, 128, 255, 256)
        compare(inputs_of(n_tokens), starts, with_state=n_tokens % 2 == 0)


def check_the_recurrence_itself() -> None:
    compare(inputs_of(150), starts_at(150, 30, 140), truth=ssd_reference)


def check_groups_and_widths() -> None:
    inputs = inputs_of(140, n_heads=4, n_groups=2, p=48, n=80, n_rows=1)
    compare(inputs, starts_at(140, 100, n_rows=1))


def check_tilings() -> None:
    """Whoever cuts chunks, heads and states otherwise computes the same."""
    inputs, starts = inputs_of(140, n_heads=6, n_groups=2, p=32, n=32, n_rows=1), starts_at(140, 60)
    usual = dict(vars(gpu_ssd))
    try:
        gpu_ssd.HEADED_PROGRAMS = gpu_ssd.SUMMED_PROGRAMS = 1
        gpu_ssd.WALK, gpu_ssd.WALK_STATE = gpu_ssd.Tiling(128, 4, 1), 16
        compare(inputs, starts[:1])
        gpu_ssd.WIDEST_CELLS = {4: 0}
        compare(inputs, starts[:1])
    finally:
        vars(gpu_ssd).update(usual)


def check_strong_and_absent_decay() -> None:
    inputs = inputs_of(200)
    for nats in (50, 5000):
        with torch.no_grad():
            inputs[1][:, 50:60] = 0
            inputs[1][0, [30, 31, 90], 0] = -nats / inputs[2][0]
            inputs[1][1, [100, 120, 130], 1] = -nats / inputs[2][1]
        compare(inputs, starts_at(200, 25, 150))
    with torch.no_grad():
        inputs[2].fill_(-1e4)
    outputs = gpu_ssd.ssd(*inputs[:-1], starts_at(200, 25), inputs[-1])
    assert all(z.isfinite().all() for z in (*outputs, *gradients(outputs, inputs)))


def check_documents_do_not_touch() -> None:
    """Nothing that is of one document, its decay least of all, changes a bit of another's."""
    *inputs, state = inputs_of(200)
    starts = starts_at(200, 0, 150) | starts_at(200, 150).flip(0)
    packed, last = gpu_ssd.ssd(*inputs, starts, state)
    late = gradients((packed[:, 150:], last), [*inputs, state])
    assert all((z[:, :150] == 0).all() for z in late[:-1] if z.ndim > 1)
    assert (late[-1] == 0).all()
    early = gradients(gpu_ssd.ssd(*inputs, starts, state)[0][:, :150], inputs)
    assert all((z[:, 150:] == 0).all() for z in early if z.ndim > 1)
    with torch.no_grad():
        others = [z.clone() for z in inputs]
        others[1][:, :150] *= 3
        others[0][:, 3] = 0
        y, memory = gpu_ssd.ssd(*others, starts, -state)
    assert torch.equal(y[:, 150:], packed[:, 150:])
    assert torch.equal(memory, last)


def check_repetition_and_inference() -> None:
    *inputs, state = leaves = inputs_of(130)
    starts = starts_at(130, 70)
    first, again = (gpu_ssd.ssd(*inputs, starts, state) for _ in range(2))
    with torch.no_grad():
        alone = gpu_ssd.ssd(*inputs, starts, state)
    pairs = [*zip(first, again, strict=True), *zip(first, alone, strict=True)]
    pairs += zip(gradients(first, leaves), gradients(again, leaves), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def check_losses_of_one_result() -> None:
    """A loss may hear the outputs alone, or the state alone."""
    *inputs, state = leaves = inputs_of(130)
    starts = starts_at(130, 70)
    for part in (0, 1):
        expected = gradients(ssd_chunked(*inputs, starts, state)[part], leaves)
        actual = gradients(gpu_ssd.ssd(*inputs, starts, state)[part], leaves)
        for place in (0, 1, 3, 4, 5, 6):
            assert_close(actual[place], expected[place])


if __name__ == "__main__":
    gpu_ssd.WIDEST_CELLS = {4: 64 * 128}  # float32 stands for 16 bits here
    run(
        check_lengths_and_documents,
        check_the_recurrence_itself,
        check_groups_and_widths,
        check_tilings,
        check_strong_and_absent_decay,
        check_documents_do_not_touch,
        check_repetition_and_inference,
        check_losses_of_one_result,
    )
