import math
from dataclasses import replace

import pytest
import torch

from helix.data import build_validation
from helix.generate import load_run
from helix.training.metrics import read_records
from helix.training.trainer import train
from helix.training.validation import SourceScore, score_sources

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def loaded(trained_run):
    return load_run(trained_run.run_dir)


def score(loaded, *, batch_tokens=4096, **data):
    sources = build_validation(replace(loaded.config.data, **data), loaded.tokenizer)
    scores = score_sources(loaded.model, sources, device=CPU, batch_tokens=batch_tokens)
    return scores, sources


def dense_nats(loaded, text):
    """Score a document whole: from its text, through dense logits in float64."""
    tokenizer, model = loaded.tokenizer, loaded.model
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]])
    inputs, targets = ids[:, :-1], ids[0, 1:]
    hidden, _ = model.stack(model.embedding(inputs), torch.zeros_like(inputs))
    logits = hidden[0].double() @ model.embedding.weight.double().T
    return float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))


@torch.no_grad()
def test_score_is_that_of_the_decoded_text(loaded):
    scores, sources = score(loaded)
    for source in sources:
        texts = list(source.texts())
        found = scores[source.name]
        n_bytes = sum(len(text.encode()) for text in texts)
        assert found.n_bytes == n_bytes
        assert found.n_targets == n_bytes + len(texts)  # each byte, and each document's end
        nats = sum(dense_nats(loaded, text) for text in texts)
        assert found.nats == pytest.approx(nats, rel=1e-5)
        assert found.bits_per_byte == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-5)
        assert found.nats_per_token == pytest.approx(nats / found.n_targets, rel=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 100, 10**6])
def test_tokens_at_a_time_and_the_context_of_training_change_no_figure(loaded, batch_tokens):
    expected, _ = score(loaded)
    found, _ = score(loaded, batch_tokens=batch_tokens, n_context=7)
    for name, told in expected.items():
        assert (found[name].n_targets, found[name].n_bytes) == (told.n_targets, told.n_bytes)
        assert found[name].bits_per_byte == pytest.approx(told.bits_per_byte, rel=1e-6)


def test_two_evaluations_give_the_identical_float(loaded):
    assert score(loaded)[0] == score(loaded)[0]


def test_score_at_the_end_of_training_is_that_of_the_saved_weights(loaded, trained_run):
    last = [r for r in read_records(trained_run.run_dir) if "validation/de/bits_per_byte" in r][-1]
    training, data = trained_run.training, trained_run.data
    scores, _ = score(loaded, batch_tokens=training.validation_rows * data.n_context)
    assert last["step"] == trained_run.training.n_steps
    for name, found in scores.items():
        assert found.bits_per_byte == last[f"validation/{name}/bits_per_byte"]
        assert found.nats_per_token == last[f"validation/{name}/loss_nats_per_token"]


def test_even_guess_over_bytes_costs_eight_bits():
    guess = SourceScore(nats=100 * math.log(256), n_targets=100, n_bytes=100)
    assert guess.bits_per_byte == pytest.approx(8)
    assert guess.nats_per_token == pytest.approx(math.log(256))


def score_at_step_0(config):
    train(config)
    first = next(r for r in read_records(config.run_dir) if "validation/de/bits_per_byte" in r)
    return [first[f"validation/{source}/bits_per_byte"] for source in ("de", "en")]


@pytest.mark.ranks
def test_two_ranks_under_zero3_give_the_identical_float_of_one(tiny_run, two_ranks):
    words = ("training.n_steps=2", "training.micro_batch_rows=2")
    alone = score_at_step_0(tiny_run(*words, run_dir="one"))
    two = tiny_run(*words, "training.deepspeed=zero3", run_dir="two")
    assert two_ranks.run(score_at_step_0, two) == [alone, alone]
