"""Our step beside that of the same model from library layers: same shapes, same run."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from evals.throughput.bench import Bench, Case, Row, Section, ratio, without_recomputation
from evals.throughput.library import LibraryModel, refuse_missing
from evals.throughput.loops import PlainLoop, fused_adamw, mean_loss
from evals.throughput.whole import loop_figures
from helix.batch import Batch

OURS = "helix"


def stack_cases(bench: Bench) -> Iterator[Case]:
    """Time ours, and the library's with its MLPs eager and compiled."""
    refuse_missing()
    yield Case({"stack": OURS}, partial(our_row, bench))
    for name, is_compiled in (("library", False), ("library, MLPs compiled", True)):
        yield Case({"stack": name}, partial(library_row, bench, is_compiled))


def our_row(bench: Bench) -> Row:
    """Time our model; documents are isolated."""
    model = bench.model(without_recomputation(bench.run.model))
    loop = PlainLoop(
        mean_loss(model), [preset_batch(bench)], fused_adamw(model, bench.run.optimizer)
    )
    return stack_figures(bench, model, loop)


def library_row(bench: Bench, is_ffn_compiled: bool) -> Row:
    """Time the library's model; documents are not isolated."""
    with torch.device(bench.device):
        model = LibraryModel(bench.run.model, is_ffn_compiled=is_ffn_compiled).to(bench.dtype)

    def mean_of_batch(batch: Batch, n_targets: int) -> Tensor:
        assert n_targets == batch.n_targets  # one micro-batch a step: its mean is the step's
        return model(batch)

    loop = PlainLoop(mean_of_batch, [preset_batch(bench)], fused_adamw(model, bench.run.optimizer))
    return stack_figures(bench, model, loop)


def preset_batch(bench: Bench) -> Batch:
    """Draw the preset's micro-batch."""
    run = bench.run
    return bench.batch(run.training.micro_batch_rows, run.data.n_context)


def stack_figures(bench: Bench, model: torch.nn.Module, loop: PlainLoop) -> Row:
    """Time a stack, and count its weights, which tell that both are one model."""
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    config = without_recomputation(bench.run.model)
    return {"parameters": n_parameters, **loop_figures(bench, config, loop)}


def compare_stacks(rows: list[Row]) -> None:
    """Divide each stack's speed by that of the library's better one."""
    theirs = [row for row in rows if row["stack"] != OURS]
    for row in rows if theirs else []:
        row["of_library"] = min(ratio(row, their, "tokens_per_s") for their in theirs)


LIBRARY = Section(
    stack_cases,
    compare_stacks,
    note="library: layers of flash-linear-attention and mamba_ssm's scan, autotuned over the first "
    "3 configurations of each kernel; it does not isolate documents, helix does; all activations "
    "kept; MFU of both by our count of FLOPs; of_library: tokens/s over those of the better row of "
    "the library",
)
