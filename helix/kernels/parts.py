"""Parts of a product, whose gradients are written where that of the whole product lies.

A mixer takes queries, keys, values and gates from one product. Were each kernel to give the
gradient of its part by itself, autograd would copy them together before the product's backward
pass: 1.4% of a step of hybrid_0_9b on an H200. So a kernel asks for room in its forward pass and
writes into it in its backward pass; what did not find room is copied.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

VIEWS = ("ViewBackward0", "UnsafeViewBackward0")  # they leave the order of elements as it is


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, widths):
        ctx.widths, ctx.shape, ctx.dtype, ctx.device = widths, x.shape, x.dtype, x.device
        ctx.whole, ctx.taken = None, set()
        ctx.set_materialize_grads(False)
        return x.split(widths, dim=-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):  # pyright: ignore[reportIncompatibleMethodOverride]
        whole = whole_gradient(ctx)
        ctx.whole, ctx.taken = None, set()  # a graph that is kept may be walked again
        for part, gradient in zip(whole.split(ctx.widths, dim=-1), gradients, strict=True):
            if gradient is None:
                part.zero_()
            elif (gradient.data_ptr(), gradient.stride()) != (part.data_ptr(), part.stride()):
                part.copy_(gradient)
        return whole, None


class Room(NamedTuple):
    """Where the gradient of a part belongs: an output of a split."""

    node: Any
    part: int


def split(x: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
    """Split the last axis, like torch.split; the gradients of the parts may be in one piece."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _Split.apply(x, tuple(widths))
    return x.split(tuple(widths), dim=-1)


def room_of(x: Tensor) -> Room | None:
    """Find what part of a split x is, if it is one; the gradient keeps no more alive than x does.

    Call it in the forward pass of what uses x.
    """
    node, part = x.grad_fn, x.output_nr
    while node is not None and node.name() in VIEWS:
        node, part = node.next_functions[0]
    return Room(node, part) if isinstance(node, _Split._backward_cls) else None


def make_room(room: Room | None, like: Tensor) -> Tensor:
    """Give memory for the gradient of a tensor, for the first who asks for it where it belongs.

    Returns:
        Strides other than a contiguous tensor's, where there is room in the whole one.
    """
    if room is None or room.part in room.node.taken or like.dtype != room.node.dtype:
        return torch.empty_like(like, memory_format=torch.contiguous_format)
    room.node.taken.add(room.part)
    room.node.whole = whole_gradient(room.node)
    return room.node.whole.split(room.node.widths, dim=-1)[room.part].view(like.shape)


def whole_gradient(node: Any) -> Tensor:
    """Give the memory of a split's gradient, which the first who asks for it takes."""
    if node.whole is not None:
        return node.whole
    return torch.empty(node.shape, dtype=node.dtype, device=node.device)
