"""A step that is dropped leaves no trace, whatever the stage, precision and accumulation."""

import math

import pytest
import torch

from helix.batch import Batch
from helix.config import RunConfig
from helix.models import build_model
from helix.training.engine import Engine, join_ranks
from helix.training.fragments import owned_fragments
from tests.training.runs import stage_words

CASES = [
    *((0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32")),
    *((1, "bf16"), (2, "bf16"), (3, "bf16")),
    *(("2_offload", "fp32"), ("2_offload", "bf16"), ("3_offload", "fp32"), ("3_offload", "bf16")),
]
RATE = 1e-2


def batch_of(config: RunConfig, number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    shape = 4, config.data.n_context + 1
    ids = torch.randint(config.model.n_vocab, shape, generator=generator)
    documents = torch.zeros(4, config.data.n_context, dtype=torch.int64)
    return Batch(tokens=ids[:, :-1], targets=ids[:, 1:], document_ids=documents)


def step_on(engine: Engine, config: RunConfig, number: int, **options):
    """Take a step on this rank's rows of a batch; `is_poisoned` makes its gradient a NaN."""
    batch = batch_of(config, number)
    poison = engine.parameters["stack.norm.weight"].register_hook(
        lambda gradient: gradient * math.nan if is_poisoned else gradient
    )
    is_poisoned = options.pop("is_poisoned", False)
    n_rows = 4 // engine.world_size
    rank = torch.distributed.get_rank()
    first, micro = rank * n_rows, config.training.micro_batch_rows
    for start in range(first, first + n_rows, micro):
        rows = batch.rows(start, start + micro).to(engine.device)
        engine.accumulate(rows, n_targets=batch.n_targets)
    poison.remove()
    return engine.apply(RATE, **options)


def contents(engine: Engine) -> dict[str, torch.Tensor]:
    """This rank's weights, working copies and moments, and AdamW's count."""
    held = {"n_updates": torch.tensor(engine.n_updates)}
    for fragment in owned_fragments(engine):
        held[fragment.name] = fragment.weight.clone()
        held |= {f"{fragment.name}/{key}": m.clone() for key, m in fragment.moments.items()}
    if engine.stage < 3:
        held |= {f"{n}/own": p.detach().clone() for n, p in engine.parameters.items()}
    return held


def is_same(ours, theirs) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def run_with_dropped_steps(config: RunConfig) -> list[tuple]:
    """Drop steps between others, by word and by a NaN; tell of each claim whether it holds."""
    join_ranks()
    engines = [Engine(build_model(config.model, seed=0, device="cpu"), config) for _ in range(2)]
    whole, cut = engines
    begun, claims = contents(whole), []
    for number, is_poisoned in enumerate((False, True, True, False), 1):
        before = contents(cut)
        drop = {"is_poisoned": True} if is_poisoned else {"accept": lambda norm: False}
        dropped = step_on(cut, config, 100 + number, **drop)
        claims += [
            ("dropped", not dropped.is_applied),
            ("norm told", math.isfinite(dropped.gradient_norm) != is_poisoned),
            ("no trace", is_same(contents(cut), before)),
        ]
        ours, theirs = step_on(cut, config, number), step_on(whole, config, number)
        claims += [("taken", ours.is_applied), ("same norm", ours == theirs)]
        claims += [("same state", is_same(contents(cut), contents(whole)))]
    return [*claims, ("n", whole.n_updates == 4), ("moved", not is_same(contents(whole), begun))]


def config_of(tiny_run, tmp_path, stage: int | str, precision: str) -> RunConfig:
    words = stage_words(stage, tmp_path)
    return tiny_run(*words, f"training.precision={precision}", "training.micro_batch_rows=1")


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_dropped_step_leaves_no_trace(tiny_run, tmp_path, stage, precision):
    claims = run_with_dropped_steps(config_of(tiny_run, tmp_path, stage, precision))
    assert all(holds for _, holds in claims), claims


@pytest.mark.ranks
@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_dropped_step_leaves_no_trace_on_two_ranks(tiny_run, tmp_path, two_ranks, stage, precision):
    config = config_of(tiny_run, tmp_path, stage, precision)
    for claims in two_ranks.run(run_with_dropped_steps, config):
        assert all(holds for _, holds in claims), claims
