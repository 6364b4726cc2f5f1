import pytest
import torch
from torch.utils.checkpoint import checkpoint

from helix.kernels.parts import make_room, room_of, split

WIDTHS = (4, 6, 2)


ROOMS: list[torch.Tensor] = []


class Scale(torch.autograd.Function):
    """Doubles a part, and writes its gradient where it belongs."""

    @staticmethod
    def forward(ctx, x):
        ctx.room = room_of(x)
        ctx.save_for_backward(x)
        return 2 * x

    @staticmethod
    def backward(ctx, d_y):
        (x,) = ctx.saved_tensors
        d_x = make_room(ctx.room, x)
        ROOMS.append(d_x)
        return d_x.copy_(2 * d_y)


@pytest.fixture
def whole():
    ROOMS.clear()
    return torch.randn(3, 5, sum(WIDTHS)).requires_grad_()


def is_view_of(x, base):
    return x.untyped_storage().data_ptr() == base.untyped_storage().data_ptr()


def test_parts_are_those_of_torch_and_without_gradients_nothing_else_happens(whole):
    for x in (whole, whole.detach()):
        for ours, theirs in zip(split(x, WIDTHS), x.split(WIDTHS, dim=-1), strict=True):
            assert torch.equal(ours, theirs)
            assert is_view_of(ours, x)
    with torch.no_grad():
        assert all(room_of(part) is None for part in split(whole, WIDTHS))
    assert room_of(whole) is None
    assert room_of(split(whole * 1, WIDTHS)[1] * 1) is None


def test_gradients_of_parts_lie_in_that_of_the_whole(whole):
    x = whole * 1
    first, second, third = split(x, WIDTHS)
    y = Scale.apply(first.unflatten(-1, (2, 2))).sum() + Scale.apply(second).sum() + third.sum()
    (gradient,) = torch.autograd.grad(y, x)
    assert torch.equal(gradient[..., :10], torch.full((3, 5, 10), 2.0))
    assert torch.equal(gradient[..., 10:], torch.ones(3, 5, 2))
    assert len(ROOMS) == 2
    assert all(is_view_of(room, gradient) for room in ROOMS)


def test_part_that_is_used_twice_gets_both_gradients(whole):
    x = whole * 1
    part = split(x, WIDTHS)[1]
    y = Scale.apply(part).sum() + Scale.apply(part.unflatten(-1, (3, 2))).sum() + part.sum()
    (gradient,) = torch.autograd.grad(y, x)
    assert torch.equal(gradient[..., 4:10], torch.full((3, 5, 6), 5.0))
    assert gradient[..., :4].abs().sum() + gradient[..., 10:].abs().sum() == 0


def test_graph_may_be_walked_again_and_in_part(whole):
    x = whole * 1
    first, second, _ = split(x, WIDTHS)
    y = Scale.apply(first) @ torch.ones(4) + Scale.apply(second) @ torch.ones(6)
    once = torch.autograd.grad(y.sum(), x, retain_graph=True)[0].clone()
    torch.autograd.grad(y.sum(), first, retain_graph=True)  # does not reach the whole
    again = torch.autograd.grad(3 * y.sum(), x)[0]
    assert torch.equal(again, 3 * once)


def test_gradient_of_another_dtype_finds_no_room(whole):
    part = split(whole * 1, WIDTHS)[0]
    room = room_of(part)
    assert room is not None
    assert make_room(room, part.double()).is_contiguous()
    assert not make_room(room, part).is_contiguous()
    assert make_room(room, part).is_contiguous()  # the first has it


def test_recomputed_parts_get_the_same_gradients(whole):
    def block(x):
        first, second, third = split(x * 1, WIDTHS)
        return Scale.apply(first) @ torch.ones(4) * (second * third.sum(-1, keepdim=True)).sum(-1)

    (plain,) = torch.autograd.grad(block(whole).sum(), whole)
    (recomputed,) = torch.autograd.grad(checkpoint(block, whole, use_reentrant=False).sum(), whole)
    assert torch.equal(plain, recomputed)
