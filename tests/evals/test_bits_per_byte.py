import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from evals.bits_per_byte import (
    BitsPerByteConfig,
    add_positions,
    bootstrap,
    evaluate,
    find_warnings,
    score_documents,
)
from evals.compare import compare, print_comparison
from evals.contract import read_result
from helix.config import ConfigError
from helix.data import Dataset
from helix.generate import load_run
from helix.training.checkpoint import CheckpointError


@pytest.fixture(scope="module")
def result(trained_run):
    return evaluate(BitsPerByteConfig(run_dir=trained_run.run_dir))


def dense_nats(model, ids):
    """By one forward in float64, all logits at once: independent of pieces, states and batches."""
    model = model.double()
    tokens = torch.tensor([ids[:-1]])
    hidden, _ = model.stack(model.embedding(tokens), torch.zeros_like(tokens))
    logits = hidden[0] @ model.head.weight.T
    return F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()


def test_it_equals_an_independent_computation_in_float64(result, trained_run):
    dataset = Dataset.open(trained_run.data.path, split="validation")
    model = load_run(trained_run.run_dir).model
    for source, own in result.figures.items():
        rows = [dataset.read(source, n).tolist() for n in range(own["n_documents"])]
        nats = [dense_nats(model, ids) for ids in rows]
        n_bytes = sum(len(bytes(ids[1:-1])) for ids in rows)
        assert own["n_bytes"] == n_bytes
        assert own["documents"]["nats"] == pytest.approx(nats, rel=2e-6)
        assert own["bits_per_byte"] == pytest.approx(sum(nats) / math.log(2) / n_bytes, rel=2e-6)


def test_in_float64_it_equals_it_to_a_billionth(trained_run):
    dataset = Dataset.open(trained_run.data.path, split="validation")
    model = load_run(trained_run.run_dir).model.double()
    rows = [dataset.read("de", n) for n in range(4)]
    costs = score_documents(model, rows, padding=257)
    for cost, row in zip(costs, rows, strict=True):
        assert cost.sum() == pytest.approx(dense_nats(model, row.tolist()), rel=1e-9)


def test_twice_gives_the_same_text_and_other_batches_nearly_the_same_figures(result, trained_run):
    again = evaluate(BitsPerByteConfig(run_dir=trained_run.run_dir))
    assert again.to_json() == result.to_json()
    other = evaluate(BitsPerByteConfig(run_dir=trained_run.run_dir, batch_documents=3))
    for source, own in other.figures.items():
        figure = result.figures[source]["bits_per_byte"]
        assert own["bits_per_byte"] == pytest.approx(figure, rel=1e-6)


def test_evaluating_draws_no_random_number(trained_run):
    torch.manual_seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1]
    evaluate(BitsPerByteConfig(run_dir=trained_run.run_dir, max_bytes=300))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


def test_a_result_names_all_that_its_figures_depend_on(result, trained_run, tmp_path):
    file = tmp_path / "results" / "a.json"
    evaluate(BitsPerByteConfig(run_dir=trained_run.run_dir, out=str(file)))
    told = json.loads(file.read_text())
    assert read_result(file).to_json() == result.to_json() == file.read_text()
    assert len(told["subject"]["checkpoint"]) == len(told["subject"]["tokenizer"]) == 64
    assert told["subject"]["step"] == 20
    assert set(told["sets"]) == set(told["figures"]) == {"de", "en"}
    assert told["figures"]["de"]["interval_95"][0] < told["figures"]["de"]["bits_per_byte"]


@given(lengths=st.lists(st.integers(0, 700), min_size=1, max_size=5))
def test_positions_add_up_to_the_whole(lengths):
    totals = {}
    for length in lengths:
        add_positions(totals, np.arange(length, dtype=np.float64))
    assert sum(nats for nats, _ in totals.values()) == sum(n * (n - 1) / 2 for n in lengths)
    assert sum(n_targets for _, n_targets in totals.values()) == sum(lengths)
    assert set(totals) <= {"0-63", "64-127", "128-255", "256-511", "512-1023"}


def test_results_of_different_text_are_not_compared(result, trained_run, tmp_path):
    part = evaluate(BitsPerByteConfig(run_dir=trained_run.run_dir, max_bytes=300))
    with pytest.raises(ConfigError, match=r"de: the sets differ .*cannot be compared"):
        compare(result, part)
    other = dataclasses.replace(result, settings={**result.settings, "piece_tokens": 7})
    with pytest.raises(ConfigError, match="piece_tokens: 1024 and 7"):
        compare(result, other)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"x.json: no result of an evaluation"):
        print_comparison([str(tmp_path / "x.json")] * 2, is_json=False)


def test_a_difference_is_told_from_chance(result, capsys, tmp_path):
    worse = json.loads(result.to_json())
    documents = worse["figures"]["de"]["documents"]
    documents["nats"] = [nats * 1.01 for nats in documents["nats"]]
    worse["figures"]["de"]["bits_per_byte"] *= 1.01
    for name, content in (("a", result.to_json()), ("b", json.dumps(worse))):
        (tmp_path / name).write_text(content)
    found = print_comparison([str(tmp_path / "a"), str(tmp_path / "b")], is_json=True)
    clear = {own.part: own.is_clear for own in found}
    assert clear == {"de": True, "en": False}
    assert json.loads(capsys.readouterr().out)[0]["difference"] > 0


def test_an_interval_covers_the_truth_as_often_as_it_says():
    draw = np.random.default_rng(1)
    n_bytes = np.full(60, 100)
    hits = 0
    for _ in range(200):
        nats = draw.normal(100, 20, size=60)
        low, high = np.quantile(bootstrap(nats, n_bytes), (0.025, 0.975))
        hits += low <= 1 / math.log(2) <= high
    assert 180 <= hits <= 199


def test_figures_that_nobody_should_believe_are_warned_of(result):
    figures = json.loads(json.dumps(result.figures))
    figures["de"]["bits_per_byte"] = 0.1
    told = " ".join(find_warnings(figures))
    assert "de: 0.100 bits per byte is implausibly few" in told
    assert "de: all of one source" in told


def test_a_step_that_has_no_checkpoint_is_refused(trained_run):
    with pytest.raises(CheckpointError, match=r"step=7: no such checkpoint .* there: 18, 20"):
        evaluate(BitsPerByteConfig(run_dir=trained_run.run_dir, step="7"))
