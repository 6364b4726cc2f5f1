"""Training under DeepSpeed on real shards: what the engine costs, and which precision to take."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evals.throughput.bench import Bench, Case, Row, Section, ratio
from evals.throughput.data import LoaderOf, training_data
from evals.throughput.loops import (
    PlainLoop,
    engine_run,
    fused_adamw,
    mean_loss,
    take_step,
    trainer_of,
)
from helix.config import Precision
from helix.data import ReadAhead
from helix.models.base import LanguageModel

N_WARM = 3
N_LAPS = 10
N_STEPS = 500  # whose losses the precisions are compared by
N_LAST = 50  # steps whose mean loss stands for where a precision ended


class Way(NamedTuple):
    """A precision of weights, and whose products are of 8 bits; see StackConfig.fp8."""

    precision: Precision
    fp8: str = ""


WAYS = {
    "bf16 weights, fp32 master copy": Way("bf16"),
    "the same, fp8 in MLPs and head": Way("bf16", "mlp head"),
    "fp32 weights, autocast": Way("fp32"),
}


def engine_cases(bench: Bench) -> Iterator[Case]:
    """Time a plain loop and the trainer's step, with each number of micro-batches a step."""
    run = bench.run
    accumulations = [int(word) for word in bench.options.accumulations.split(",")]
    n_rows = run.training.micro_batch_rows * sum(accumulations)
    n_tokens = (N_WARM + N_LAPS) * n_rows * run.data.n_context
    with training_data(run, n_tokens=n_tokens) as loader_of:
        for n in accumulations:
            yield Case({"loop": "plain", "micro_batches": n}, partial(plain_row, bench, n))
            measure = partial(engine_row, bench, n, loader_of)
            yield Case({"loop": "engine", "micro_batches": n}, measure)


def plain_row(bench: Bench, n_micro_batches: int) -> Row:
    """Time the plain loop, its data on the device already."""
    run = bench.run
    model = bench.model(run.model)
    batch = bench.batch(run.training.micro_batch_rows, run.data.n_context)
    adamw = fused_adamw(model, run.optimizer)
    loop = PlainLoop(mean_loss(model), [batch] * n_micro_batches, adamw)
    return time_steps(bench, loop.step, n_tokens=n_micro_batches * batch.tokens.numel())


def engine_row(bench: Bench, n_micro_batches: int, loader_of: LoaderOf) -> Row:
    """Time the trainer's step: shards, DeepSpeed, clipping, and the figures it records."""
    run = engine_run(bench.run, n_micro_batches=n_micro_batches, n_steps=2 * (N_WARM + N_LAPS))
    n_rows = run.training.batch_rows
    with trainer_of(run, bench.host_model(), loader_of(n_rows)) as trainer:
        return time_steps(bench, trainer.take_step, n_tokens=n_rows * run.data.n_context)


def time_steps(bench: Bench, step: Callable[[], Any], *, n_tokens: int) -> Row:
    """Time some steps of so many tokens."""
    timing = bench.timing(step, n_warm=N_WARM, n_laps=N_LAPS)
    tokens_per_s = 1e3 * n_tokens / timing.ms
    return {
        "step_ms": timing.ms,
        "tokens_per_s": tokens_per_s,
        "mfu": bench.mfu(tokens_per_s),
        "peak_gib": timing.peak_gib,
    }


def compare_loops(rows: list[Row]) -> None:
    """Say by how much the engine's step is longer than the plain loop's of as many tokens."""
    plain = {row["micro_batches"]: row for row in rows if row["loop"] == "plain"}
    for row in rows:
        if row["loop"] == "engine" and row["micro_batches"] in plain:
            times_longer = ratio(row, plain[row["micro_batches"]], "step_ms")
            row["overhead_percent"] = 100 * (times_longer - 1)


def precision_cases(bench: Bench) -> Iterator[Case]:
    """Train with each precision on the same rows, then time its steps at the preset's batch."""
    run = bench.run
    n_steps = bench.options.n_steps or N_STEPS
    n_rows = max(1, run.training.micro_batch_rows // 4)
    with training_data(run, n_tokens=n_steps * n_rows * run.data.n_context) as loader_of:
        for name, way in WAYS.items():
            measure = partial(precision_row, bench, way, loader_of, n_steps, n_rows)
            yield Case({"precision": name}, measure)


def precision_row(bench: Bench, way: Way, loader_of: LoaderOf, n_steps: int, n_rows: int) -> Row:
    """Train some steps on `n_rows` a step, then time steps on the preset's rows."""
    run = engine_run(bench.run, n_micro_batches=1, n_steps=n_steps + 2 * (N_WARM + N_LAPS))
    training = replace(run.training, precision=way.precision)
    run = replace(run, model=replace(run.model, fp8=way.fp8), training=training)
    model = replace(bench, run=run).host_model()
    if training.precision == "fp32":
        under_autocast(model, bench.device.type)
    with trainer_of(run, model, loader_of(n_rows)) as trainer:
        losses = [take_step(trainer) for _ in range(n_steps)]
        trainer.loader = ReadAhead(loader_of(training.batch_rows))
        n_tokens = training.batch_rows * run.data.n_context
        return {
            **time_steps(bench, trainer.take_step, n_tokens=n_tokens),
            "n_steps": n_steps,
            "first_loss": losses[0],
            "last_loss": statistics.fmean(losses[-N_LAST:]),
            "losses": losses,
        }


def under_autocast(model: LanguageModel, device_type: str) -> None:
    """Run a model's forward pass under torch.autocast, and its loss on operands cast likewise.

    The fused loss is no operator that autocast knows; in float32 it would leave the tensor cores.
    """
    head = model.get_submodule("head")
    forward, loss = model.forward, head.cross_entropy

    def cast_forward(*arguments: Any) -> Any:
        with torch.autocast(device_type, torch.bfloat16):
            return forward(*arguments)

    def cast_loss(hidden: Tensor, weight: Tensor, targets: Tensor, **limits: int) -> Tensor:
        with torch.autocast(device_type, enabled=False):
            return loss(hidden.bfloat16(), weight.bfloat16(), targets, **limits)

    model.forward = cast_forward
    head.cross_entropy = cast_loss


ENGINE = Section(
    engine_cases,
    compare_loops,
    note="plain: fused AdamW on weights as they are, no clipping, data on the device; engine: the "
    "trainer's step on shards under DeepSpeed; tokens/s of whole optimizer steps",
)
PRECISION = Section(
    precision_cases,
    note=f"all under DeepSpeed; last_loss: mean of the last {N_LAST} steps, in nats a token; "
    "losses on a quarter of the preset's rows, speed and memory on all of them",
)
