import pytest
import torch
from torch.nn import functional as F

from helix.kernels.cross_entropy import cross_entropy_reference, linear_cross_entropy, token_scores
from tests.numerics import assert_close


def head_inputs(n_tokens=50, *, n_vocab=37, d=8, dtype=torch.float32):
    torch.manual_seed(0)
    hidden = torch.randn(n_tokens, d, dtype=dtype, requires_grad=True)
    weight = torch.randn(n_vocab, d, dtype=dtype, requires_grad=True)
    targets = torch.randint(n_vocab, (n_tokens,))
    targets[::4] = -100
    return hidden, weight, targets


@pytest.mark.parametrize("chunk_rows", [1, 7, 50, 1000])
def test_chunked_equals_dense(chunk_rows):
    hidden, weight, targets = head_inputs()
    dense = cross_entropy_reference(hidden, weight, targets)
    chunked = linear_cross_entropy(hidden, weight, targets, chunk_rows=chunk_rows)
    assert_close(chunked, dense)
    scaled = [torch.autograd.grad(loss * 0.3, (hidden, weight)) for loss in (chunked, dense)]
    for a, e in zip(*scaled, strict=True):
        assert_close(a, e)


def test_gradients_are_those_of_finite_differences():
    hidden, weight, targets = head_inputs(6, n_vocab=5, d=3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, chunk_rows=4), (hidden, weight)
    )


@pytest.mark.parametrize("frozen", [0, 1])
def test_frozen_side_gets_no_gradient_and_the_other_its_own(frozen):
    inputs = head_inputs()
    inputs[frozen].requires_grad_(False)
    learning = inputs[1 - frozen]
    (actual,) = torch.autograd.grad(linear_cross_entropy(*inputs, chunk_rows=16), learning)
    (expected,) = torch.autograd.grad(cross_entropy_reference(*inputs), learning)
    assert_close(actual, expected)


def test_all_ignored_is_zero_with_zero_gradients():
    hidden, weight, targets = head_inputs()
    loss = linear_cross_entropy(hidden, weight, targets.fill_(-100), chunk_rows=16)
    assert loss.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(loss, (hidden, weight)))


def test_another_number_may_mean_ignored():
    hidden, weight, targets = head_inputs()
    targets = targets.where(targets >= 0, 3)
    loss = linear_cross_entropy(hidden, weight, targets, chunk_rows=9, ignored=3)
    kept = targets.where(targets != 3, -100)
    assert_close(loss, cross_entropy_reference(hidden, weight, kept))


def test_huge_logits_stay_finite():
    hidden, weight, targets = head_inputs()
    loss = linear_cross_entropy(hidden * 1e4, weight, targets, chunk_rows=16)
    assert_close(loss, cross_entropy_reference(hidden * 1e4, weight, targets))
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (hidden, weight)))


def test_without_gradient_only_the_loss_is_computed():
    hidden, weight, targets = head_inputs()
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, targets, chunk_rows=16)
    assert not loss.requires_grad
    assert_close(loss, cross_entropy_reference(hidden, weight, targets))


def test_token_losses_sum_to_the_loss():
    hidden, weight, targets = head_inputs()
    losses, ranks = token_scores(hidden, weight, targets, chunk_rows=16)
    logits = hidden @ weight.T
    expected = F.cross_entropy(logits, targets, reduction="none")
    assert not losses.requires_grad
    assert_close(losses, expected)
    assert (losses[targets == -100] == 0).all()
    order = logits.argsort(dim=1, descending=True)
    for row, target in enumerate(targets.tolist()):
        assert target == -100 or order[row, ranks[row]] == target


def test_a_logit_that_is_no_number_is_not_the_greedy_choice():
    hidden, weight, targets = head_inputs()
    _, ranks = token_scores(hidden * torch.nan, weight, targets, chunk_rows=16)
    assert (ranks[targets != -100] == weight.shape[0]).all()


def test_half_precision_gives_a_float32_loss_and_gradients_of_its_own():
    hidden, weight, targets = head_inputs()
    half = [x.detach().bfloat16().requires_grad_() for x in (hidden, weight)]
    loss = linear_cross_entropy(*half, targets, chunk_rows=16)
    expected = cross_entropy_reference(*half, targets)
    assert loss.dtype == torch.float32
    assert_close(loss, expected)
    actual = torch.autograd.grad(loss, half)
    for a, e in zip(actual, torch.autograd.grad(expected, half), strict=True):
        assert a.dtype == torch.bfloat16
        assert_close(a, e)


def test_loss_of_no_tokens_is_zero():
    hidden, weight, targets = head_inputs(0)
    assert linear_cross_entropy(hidden, weight, targets, chunk_rows=16).item() == 0
    nats, ranks = token_scores(hidden, weight, targets, chunk_rows=16)
    assert nats.shape == ranks.shape == (0,)
