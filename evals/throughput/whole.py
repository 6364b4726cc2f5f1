"""Whole steps of a plain loop: the preset as it stands, each recomputation, each length of row."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn
from torch.autograd.graph import save_on_cpu

from evals.throughput.bench import Bench, Case, Row, Section, ratio, without_recomputation
from evals.throughput.loops import PlainLoop, fused_adamw, mean_loss
from helix.models.base import LanguageModel
from helix.models.hybrid import HybridConfig
from helix.training.flops import (
    recomputed_flops_per_token,
    training_flops_per_token,
    utilisation,
)

GPU_CONTEXTS = [4096, 8192, 16_384, 32_768, 65_536]
Change = Callable[[LanguageModel], None]


def step_row(
    bench: Bench,
    config: HybridConfig,
    *,
    n_rows: int,
    n_context: int,
    n_micro_batches: int = 1,
    change: Change = lambda model: None,
) -> Row:
    """Time a step of one of our models.

    Args:
        n_rows: Of each micro-batch.
        change: What is done to the model before it is timed.
    """
    model = bench.model(config)
    change(model)
    batch = bench.batch(n_rows, n_context)
    loop = PlainLoop(
        mean_loss(model), [batch] * n_micro_batches, fused_adamw(model, bench.run.optimizer)
    )
    return {"rows": n_rows, "n_context": n_context, **loop_figures(bench, config, loop)}


def loop_figures(bench: Bench, config: HybridConfig, loop: PlainLoop) -> Row:
    """Time a plain loop: its forward and backward alone, and its whole step."""
    accumulation, step = bench.timing(loop.accumulate), bench.timing(loop.step)
    n_context = loop.micro_batches[0].tokens.shape[1]
    n_tokens = sum(batch.tokens.numel() for batch in loop.micro_batches)
    flops = training_flops_per_token(config, n_context)
    again = recomputed_flops_per_token(config, n_context)
    tokens_per_s = 1e3 * n_tokens / step.ms
    return {
        "tokens": n_tokens,
        "fwd_bwd_ms": accumulation.ms,
        "step_ms": step.ms,
        "tokens_per_s": tokens_per_s,
        "mfu": utilisation(flops, tokens_per_s=tokens_per_s, peak=bench.peak),
        "hfu": utilisation(flops + again, tokens_per_s=tokens_per_s, peak=bench.peak),
        "peak_gib": step.peak_gib,
    }


def step_cases(bench: Bench) -> Iterator[Case]:
    """Time the preset as it stands."""
    run = bench.run
    measure = partial(
        step_row,
        bench,
        run.model,
        n_rows=run.training.micro_batch_rows,
        n_context=run.data.n_context,
    )
    yield Case({"recompute": describe_recompute(run.model)}, measure)


def recompute_cases(bench: Bench) -> Iterator[Case]:
    """Time each way to hold fewer activations: recomputed, and kept on the host."""
    run = bench.run
    plain = without_recomputation(run.model)
    full = replace(plain, recompute="full")
    ways = [
        plain,
        replace(plain, recompute="selective"),
        full,
        *(replace(full, recompute_every=n) for n in (2, 4)),
        *(replace(full, recompute_kinds=kind) for kind in dict.fromkeys(plain.kinds())),
    ]
    measure = partial(
        step_row, bench, n_rows=run.training.micro_batch_rows, n_context=run.data.n_context
    )
    for way in ways:
        yield Case({"recompute": describe_recompute(way)}, partial(measure, way))
    offload = partial(measure, plain, change=partial(keep_on_host, every=4, pinned=bench.is_gpu))
    yield Case({"recompute": "none; every 4th block's activations on the host"}, offload)


def describe_recompute(config: HybridConfig) -> str:
    """Name a way of recomputation."""
    every = f", every {config.recompute_every}" if config.recompute_every > 1 else ""
    kinds = f", {config.recompute_kinds}" if config.recompute_kinds else ""
    return f"{config.recompute}{every}{kinds}"


def keep_on_host(model: LanguageModel, *, every: int, pinned: bool) -> None:
    """Send what every n-th block saves for the backward pass to the host, and fetch it there."""
    blocks = model.get_submodule("stack.blocks")
    assert isinstance(blocks, nn.ModuleList)
    for block in list(blocks)[::every]:
        block.forward = on_host(block.forward, pinned=pinned)


def on_host(forward: Callable[..., Any], *, pinned: bool) -> Callable[..., Any]:
    """Keep what a forward pass saves in the host's memory."""

    def offloaded(*arguments: Any, **named: Any) -> Any:
        with save_on_cpu(pin_memory=pinned):
            return forward(*arguments, **named)

    return offloaded


def context_lengths(bench: Bench) -> list[int]:
    """List the lengths that context compares."""
    return bench.contexts(on_gpu=GPU_CONTEXTS)


def context_cases(bench: Bench) -> Iterator[Case]:
    """Time rows of several lengths, all with as many tokens a step as the longest needs."""
    run, lengths = bench.run, context_lengths(bench)
    n_at_once = run.training.micro_batch_rows * run.data.n_context
    n_tokens = max(n_at_once, *lengths)
    for n_context in lengths:
        n_rows = max(1, n_at_once // n_context)
        measure = partial(
            step_row,
            bench,
            run.model,
            n_rows=n_rows,
            n_context=n_context,
            n_micro_batches=max(1, n_tokens // (n_rows * n_context)),
        )
        yield Case({"n_context": n_context}, measure)


def compare_contexts(rows: list[Row]) -> None:
    """Divide each row's speed by the first's."""
    for row in rows:
        row["of_first"] = ratio(row, rows[0], "tokens_per_s")


STEP = Section(step_cases, note="step_ms: forward, backward and fused AdamW on weights as they are")
RECOMPUTE = Section(
    recompute_cases,
    note="HFU counts the blocks that are run again; on the host: by torch's save_on_cpu, pinned on "
    "a GPU; hold it to full, every 4",
)
CONTEXT = Section(
    context_cases, compare_contexts, note="of_first: tokens/s over those of the first length"
)
