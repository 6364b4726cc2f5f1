"""Runs our Triton GLA on a CPU under Triton's interpreter; test_triton.py starts it."""

import torch
from torch.nn import functional as F

from helix.kernels import triton_gla as gpu_gla
from helix.kernels.gla import gla_chunked, gla_reference
from tests.kernels.interpreted.checks import assert_same, leaf, run
from tests.numerics import draw_starts, gradients


def draw_inputs(n_tokens, d_key, d_value, *, n_rows=1, n_heads=1):
    shape = (n_rows, n_tokens, n_heads)
    log_decay = F.logsigmoid(torch.randn(*shape, d_key)) / 4
    q, k, v = leaf(*shape, d_key), leaf(*shape, d_key), leaf(*shape, d_value)
    return [q, k, v, log_decay.requires_grad_(), leaf(n_rows, n_heads, d_key, d_value)]


def starts_at(n_tokens, *places):
    starts = torch.zeros(1, n_tokens, dtype=torch.bool)
    starts[0, list(places)] = True
    return starts


def compare(inputs, starts, *, with_state=True, truth=gla_chunked):
    inputs = inputs if with_state else inputs[:-1]
    state = inputs[4] if with_state else None
    expected = truth(*inputs[:4], starts, state)
    assert_same(gpu_gla.gla(*inputs[:4], starts, state), expected, inputs)


def check_lengths_and_widths() -> None:
    for n_tokens, d_key, d_value in ((1, 16, 16), (63, 16, 16), (64, 16, 32), (130, 32, 128)):
        inputs = draw_inputs(n_tokens, d_key, d_value, n_rows=2)
        compare(inputs, draw_starts(2, n_tokens))
        compare(inputs, torch.zeros(2, n_tokens, dtype=torch.bool), with_state=False)
    compare(draw_inputs(65, 48, 80, n_heads=2), starts_at(65, 30))
    compare(draw_inputs(65, 128, 64), starts_at(65, 64))


def check_the_recurrence() -> None:
    compare(draw_inputs(200, 32, 64), draw_starts(1, 200), truth=gla_reference)


def check_documents() -> None:
    n_tokens = 200
    inputs = draw_inputs(n_tokens, 16, 32)
    for places in ((0,), (63,), (64,), (10, 50), (70, 71, 72), (0, 64, 128, 199), range(60, 70)):
        compare(inputs, starts_at(n_tokens, *places))
    compare(inputs, torch.ones(1, n_tokens, dtype=torch.bool))


def check_strong_decay() -> None:
    for strength in (0.0, -1.0, -5.0, -50.0, -1e4):
        inputs = draw_inputs(150, 32, 16)
        with torch.no_grad():
            inputs[3][:, 20:90, :, ::2] = strength
        compare(inputs, starts_at(150, 40))
    inputs = draw_inputs(150, 32, 16)
    with torch.no_grad():
        inputs[3][:, [0, 5, 63, 64, 149]] = -1e4
    compare(inputs, starts_at(150))
    with torch.no_grad():
        inputs[3].fill_(-1e4)
    compare(inputs, starts_at(150, 64, 100))


def check_both_ways_alike() -> None:
    """The slow way must be right where nobody notices, at weak decays too."""
    deepest, gpu_gla.DEEPEST = gpu_gla.DEEPEST, 1.0
    compare(draw_inputs(130, 32, 32), starts_at(130, 20, 64, 100))
    gpu_gla.DEEPEST = deepest


def check_slices_of_one_projection() -> None:
    whole = leaf(1, 100, 2 * (16 + 16 + 32) + 10)
    *_, log_decay, state = draw_inputs(100, 16, 32, n_heads=2)
    parts = whole[..., 3:131].split((32, 32, 64), dim=-1)
    q, k, v = (x.unflatten(-1, (2, -1)) for x in parts)
    turned = log_decay.transpose(1, 2).contiguous().transpose(1, 2)
    inputs = (q, k, v, turned, starts_at(100, 70), state)
    assert_same(gpu_gla.gla(*inputs), gla_chunked(*inputs), [whole, log_decay, state])


def check_no_word_from_another_document() -> None:
    """Not a bit of what came before reaches the outputs, nor of what comes after the gradients."""
    starts = starts_at(150, 30, 40)
    inputs, others = draw_inputs(150, 16, 16), draw_inputs(150, 16, 16)
    with torch.no_grad():
        for x, other in zip(inputs[:4], others[:4], strict=True):
            other[:, 40:] = x[:, 40:]
        others[3][:, [30, 40]] = -7.0
    outputs, changed = (gpu_gla.gla(*x[:4], starts, x[4]) for x in (inputs, others))
    assert torch.equal(outputs[0][:, 40:], changed[0][:, 40:])
    assert torch.equal(outputs[1], changed[1])
    for strength in (-0.1, -50.0):
        with torch.no_grad():
            inputs[3][:, 5:100] = strength
        y, final = gpu_gla.gla(*inputs[:4], starts, inputs[4])
        of_late = gradients((y[:, 40:], final), inputs)
        assert all((x[:, :40] == 0).all() for x in of_late[:4])
        assert (of_late[3][:, 40] == 0).all()
        assert (of_late[4] == 0).all()
        of_early = gradients(gpu_gla.gla(*inputs[:4], starts, inputs[4])[0][:, :40], inputs)
        assert all((x[:, 40:] == 0).all() for x in of_early[:4])
        assert (of_early[3][:, 30] == 0).all()


if __name__ == "__main__":
    run(
        check_lengths_and_widths,
        check_the_recurrence,
        check_documents,
        check_strong_decay,
        check_both_ways_alike,
        check_slices_of_one_projection,
        check_no_word_from_another_document,
    )
