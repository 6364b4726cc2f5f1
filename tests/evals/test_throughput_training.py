import gc
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from evals.throughput import throughput
from evals.throughput.bench import Bench
from evals.throughput.data import NumberTokenizer, training_data, walk_chain
from evals.throughput.loops import engine_run, take_step, trainer_of
from evals.throughput.options import ThroughputConfig
from evals.throughput.stacks import OURS, compare_stacks
from evals.throughput.training import WAYS
from helix.config import ConfigError, load
from helix.presets import PRESETS
from tests.conftest import TINY_MODEL

WORDS = [word for word in TINY_MODEL if not word.startswith("tokenizer.")]


def rows_of(section: str, *words: str, **options: object) -> list[dict]:
    """Measure one section as a spawned rank can, too."""
    own = {word.partition("=")[0] for word in words}
    kept = [word for word in WORDS if word.partition("=")[0] not in own]
    config = ThroughputConfig(sections=section, n_repeats=1, **options)
    report = throughput(load([*kept, *words], PRESETS), config)
    assert report.failed() == []
    return report.sections[section]


def test_engine_is_held_to_a_plain_loop_of_as_many_micro_batches(corpus):
    shards = ["tokenizer.kind=byte", f"data.path={corpus}"]
    rows = rows_of("engine", "training.micro_batch_rows=1", *shards)
    assert [(row["loop"], row["micro_batches"]) for row in rows] == [
        *(("plain", 1), ("engine", 1), ("plain", 8), ("engine", 8))
    ]
    for plain, engine in (rows[:2], rows[2:]):
        assert engine["tokens_per_s"] > 0
        times_longer = engine["step_ms"] / plain["step_ms"]
        assert engine["overhead_percent"] == pytest.approx(100 * (times_longer - 1))
    assert rows[2]["step_ms"] / rows[0]["step_ms"] > 2


def test_all_precisions_learn_from_the_same_rows():
    rows = rows_of("precision", "optimizer.learning_rate=0.01", "model.n_vocab=272", n_steps=30)
    assert [row["precision"] for row in rows] == list(WAYS)
    for row in rows:
        assert len(row["losses"]) == row["n_steps"] == 30
        assert row["last_loss"] == pytest.approx(sum(row["losses"]) / 30)  # of fewer than 50
        assert min(row["losses"]) < row["first_loss"] - 0.2
    for row in rows[1:]:
        assert row["losses"] == pytest.approx(rows[0]["losses"], abs=0.3)


def test_first_step_is_timed_from_the_start_of_a_process():
    (row,) = rows_of("first_step")
    phases = ["imports_s", "kernels_s", "build_s", "fwd_bwd_s", "optimizer_s"]
    assert row["total_s"] == pytest.approx(sum(row[phase] for phase in phases))
    assert row["imports_s"] > 0.1


@pytest.mark.ranks
def test_stages_on_two_ranks_have_one_loss_curve_and_a_speed_beside_one_rank_alone(two_ranks):
    rows, other = two_ranks.run(zero_rows)
    assert [(row["ranks"], row["stage"]) for row in rows] == [(1, 1), (2, 1), (2, 3)]
    assert all(row["off_first_stage"] < 1e-4 for row in rows[1:])
    alone = rows[0]["tokens_per_s_a_rank"]
    for row, theirs in zip(rows[1:], other[1:], strict=True):
        assert len(row["losses"]) == 5
        assert row["losses"] == theirs["losses"]
        assert row["of_one_rank"] == pytest.approx(row["tokens_per_s_a_rank"] / alone)


def zero_rows() -> list[dict]:
    return rows_of("zero", "training.micro_batch_rows=2", n_steps=5, stages="1,3")


def test_several_ranks_are_for_zero_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="sections=step: of several ranks only zero"):
        rows_of("step")


@pytest.mark.parametrize("stage", [1, 3])
def test_engine_leaves_no_weight_and_no_moment_behind(stage):
    words = [f"training.deepspeed=zero{stage}", "training.precision=bf16"]
    run = load([*WORDS, *words], PRESETS)
    bench = Bench(run, ThroughputConfig(), torch.device("cpu"))
    n_largest = max(p.numel() for p in bench.host_model().parameters())
    before = n_tensors(n_largest)
    train_a_little(bench)
    assert n_tensors(n_largest) == before


def train_a_little(bench: Bench) -> None:
    run = engine_run(bench.run, n_micro_batches=1, n_steps=4)
    with (
        training_data(run, n_tokens=1000) as loader_of,
        trainer_of(run, bench.host_model(), loader_of(run.training.batch_rows)) as trainer,
    ):
        take_step(trainer)


def n_tensors(n_values: int) -> int:
    """Count the tensors in use that are at least so large."""
    gc.collect()
    return sum(isinstance(x, torch.Tensor) and x.numel() >= n_values for x in gc.get_objects())


def test_chain_follows_its_four_tokens_as_often_as_it_says():
    ids = walk_chain(200, 400, n_vocab=64)
    counts = np.zeros((64, 64))
    np.add.at(counts, (ids[:, :-1].ravel(), ids[:, 1:].ravel()), 1)
    assert (counts > 0).sum(axis=1).max() <= 4
    chance = counts / counts.sum(axis=1, keepdims=True)
    nats = -np.log(chance, where=chance > 0, out=np.zeros_like(chance))
    entropy = float((counts * nats).sum() / counts.sum())
    assert entropy < -0.7 * math.log(0.7) - 0.3 * math.log(0.1) + 0.01  # two may be one token


def test_library_rows_are_held_to_the_better_of_them():
    rows = [
        {"stack": OURS, "tokens_per_s": 6.0},
        {"stack": "library", "tokens_per_s": 3.0},
        {"stack": "library, MLPs compiled", "tokens_per_s": 4.0},
    ]
    compare_stacks(rows)
    assert [row["of_library"] for row in rows] == [1.5, 0.75, 1.0]


def test_numbers_are_ids():
    tokenizer = NumberTokenizer(1000)
    assert tokenizer.encode_many(["7 42", "997"]) == [[7, 42], [997]]
    assert tokenizer.encode(tokenizer.decode([1, 2, 3])) == [1, 2, 3]


def test_shards_of_the_chain_hold_ids_of_the_whole_vocabulary():
    run = load([*(w for w in WORDS if "n_vocab" not in w), "model.n_vocab=20000"], PRESETS)
    run = replace(run, data=replace(run.data, n_context=128))
    with training_data(run, n_tokens=20_000) as loader_of:
        batch = loader_of(16).next()
    assert batch.tokens.shape == (16, 128)
    assert batch.tokens.max() > 15_000
    assert (batch.document_ids.max(dim=1).values >= 2).all()
