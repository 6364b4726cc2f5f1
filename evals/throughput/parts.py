"""One block of each kind, its parts, the embedding and the head: where a step's time goes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from evals.throughput.bench import Bench, Case, Row, Section
from helix.batch import Batch
from helix.models.base import LanguageModel
from helix.training.flops import block_flops, utilisation

PARTS = ("block", "mixer", "mlp", "mlp_norm")


@dataclass(frozen=True)
class Part:
    """A module of the model, what it is called with, and what it costs.

    Attributes:
        n: How many of them the model has.
        flops: Of the forward pass, for one token.
    """

    module: nn.Module
    arguments: tuple[Tensor, ...]
    n: int
    flops: int


def part_cases(bench: Bench) -> Iterator[Case]:
    """Time forward, and forward and backward, of each part."""
    run = bench.run
    model = bench.model(run.model)
    batch = bench.batch(run.training.micro_batch_rows, run.data.n_context)
    x = torch.randn(*batch.tokens.shape, run.model.d_model, device=bench.device, dtype=bench.dtype)
    x.requires_grad_()
    for labels, part in parts_of(bench, model, batch, x):
        yield Case(labels, partial(part_row, bench, part, batch.tokens.numel()))


def parts_of(
    bench: Bench, model: LanguageModel, batch: Batch, x: Tensor
) -> Iterator[tuple[Row, Part]]:
    """Find the parts in the model."""
    config, n_context = bench.run.model, bench.run.data.n_context
    kinds = config.kinds()
    for kind in dict.fromkeys(kinds):
        block = model.get_submodule(f"stack.blocks.{kinds.index(kind)}")
        flops = block_flops(config, kind, n_context)
        for name in PARTS:
            module = block if name == "block" else block.get_submodule(name)
            arguments = (x, batch.document_ids) if name in ("block", "mixer") else (x,)
            part = Part(module, arguments, kinds.count(kind), flops.get(name, 0))
            yield {"kind": kind, "part": name}, part
    embedding = Part(model.get_submodule("embedding"), (batch.tokens,), 1, 0)
    yield {"kind": "embedding", "part": "look-up"}, embedding
    head_flops = config.flops_by_part(n_context)["head"]
    head = Part(model.get_submodule("head"), (x, batch.targets), 1, head_flops)
    yield {"kind": "head", "part": "head and loss"}, head


def part_row(bench: Bench, part: Part, n_tokens: int) -> Row:
    """Time one part; its FLOPs are those of forward and backward."""
    forward = bench.timing(run_forward(part))
    both = bench.timing(run_both(part))
    tokens_per_s = 1e3 * n_tokens / both.ms
    return {
        "n": part.n,
        "fwd_ms": forward.ms,
        "fwd_bwd_ms": both.ms,
        "all_fwd_bwd_ms": part.n * both.ms,
        "tflops_per_s": 3 * part.flops * tokens_per_s / 1e12,
        "of_peak": utilisation(3 * part.flops, tokens_per_s=tokens_per_s, peak=bench.peak),
    }


def run_forward(part: Part) -> Callable[[], Any]:
    """Give the forward pass, which saves what the backward pass would need."""
    return lambda: part.module(*part.arguments)


def run_both(part: Part) -> Callable[[], None]:
    """Give forward and backward, with no gradients from before to add to."""
    sample = output(run_forward(part)())
    given = torch.randn_like(sample) if sample.ndim else torch.ones_like(sample)

    def work() -> None:
        part.module.zero_grad(set_to_none=True)
        part.arguments[0].grad = None
        output(part.module(*part.arguments)).backward(given)

    return work


def output(result: Any) -> Tensor:
    """Take the output from what a module returns.

    A mixer and a block give their state behind it; a norm gives the stream before it.
    """
    if not isinstance(result, tuple):
        return result
    return result[1] if isinstance(result[1], Tensor) else result[0]


PARTS_SECTION = Section(
    part_cases,
    note="n: how many the model has; all_fwd_bwd_ms: of them all; the head forms its gradients in "
    "its forward pass; TFLOP/s and share of peak count three times the forward FLOPs",
)
