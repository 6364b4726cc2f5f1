import dataclasses
import math

import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from data_tools.documents import Document
from data_tools.make_shards import make_shards
from data_tools.train_tokenizer import train_tokenizer
from evals.bits_per_byte import (
    EVALUATION,
    BitsPerByteOptions,
    Scored,
    by_position,
    find_warnings,
    measure,
    measure_bits,
)
from evals.contract import Subject, to_json
from evals.evaluation import evaluate
from evals.examinee import Examinee, open_examinee
from helix.data import DataConfig, Dataset
from helix.generate import load_run
from helix.models import build_model
from helix.presets import PRESETS
from helix.scoring import Row, score_batch
from helix.tokenizer import SentencePieceTokenizer
from helix.training.checkpoint import CheckpointError
from helix.training.metrics import read_records
from tests.ranks import Ranks

CPU = torch.device("cpu")
PLAIN = "der Fluss trägt die Brücke über den Hügel the river carries a bridge over hills"
HARD = [
    "Äpfel, Öl, Übermut und Straßenkäse: schön größer früh",
    "Familie 👩‍👩‍👧‍👦 und Flagge 🇩🇪, 🧬🧪 mitten im Wort👍🏽satz",
    "abgebrochen \ufffd\ufffd hier, und eine 0 \x00 dort",
    "U+2581 ▁ ist kein Leerzeichen ▁▁  zwei Leerzeichen",
    "Zeichen a\u0308 zerlegt, ﬁ gebunden, ² hoch, \u202eumgekehrt\u202c",
    "漢字と仮名, кириллица, ελληνικά, עברית, हिन्दी",
]


def evaluate_run(run_dir, **options):
    return evaluate(EVALUATION, BitsPerByteOptions(run_dir=str(run_dir), **options))


@pytest.fixture(scope="module")
def result(trained_run):
    return evaluate_run(trained_run.run_dir)


def dense_nats(model, ids):
    """By one forward in float64, all logits at once: independent of pieces, states and batches."""
    tokens = torch.tensor([ids[:-1]])
    hidden, _ = model.stack(model.embedding(tokens), torch.zeros_like(tokens))
    logits = hidden[0] @ model.head.weight.T
    return F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()


@pytest.fixture(scope="module")
def hard_text(tmp_path_factory):
    """A dataset of text that a SentencePiece vocabulary has only bytes for, and its tokenizer."""
    folder = tmp_path_factory.mktemp("hard")
    words = PLAIN.split()
    plain = [
        Document(id=str(n), text=" ".join(words[n % 7 :: 2]), source="x", language="de", licence="")
        for n in range(40)
    ]
    tokenizer = train_tokenizer(plain, folder / "sp.model", n_vocab=320, character_coverage=0.99)
    documents = [
        Document(
            id=str(number),
            text=text,
            source="hard",
            language="de",
            licence="",
            split="validation" if number < len(HARD) else "train",
        )
        for number, text in enumerate([*HARD, PLAIN])
    ]
    make_shards(documents, tokenizer, folder / "data", validation_fraction=0.1)
    return folder


def encode_by_hand(processor, text):
    """Ids by SentencePiece alone, but for the two characters that it cannot see."""
    ids, blind = [], {"\x00": [0], "\u2581": list("\u2581".encode())}
    rest = ""
    for character in [*text, None]:
        if character is not None and character not in blind:
            rest += character
            continue
        ids += processor.encode(rest)
        rest = ""
        for byte in blind.get(character, []):
            ids.append(processor.piece_to_id(f"<0x{byte:02X}>"))
    return [processor.bos_id(), *ids, processor.eos_id()]


def test_it_equals_a_computation_by_hand_to_a_billionth_on_text_that_is_hard_to_count(hard_text):
    tokenizer = SentencePieceTokenizer(hard_text / "sp.model")
    preset = PRESETS["hybrid_tiny"]()
    shape = dataclasses.replace(preset.model, n_vocab=tokenizer.n_vocab)
    model = build_model(shape, seed=3, device="cpu").double().eval()
    subject = Subject(
        name="x",
        checkpoint="x",
        step=0,
        tokenizer=tokenizer.fingerprint,
        precision="fp64",
        backends={},
        device="cpu",
        n_parameters=1,
    )
    data = DataConfig(path=str(hard_text / "data"))
    examinee = Examinee(model, tokenizer, subject, 256, dataclasses.replace(preset, data=data))
    found = measure(examinee, BitsPerByteOptions(run_dir="x"))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(hard_text / "sp.model"))
    nats = {}
    with torch.no_grad():
        for text in HARD:
            ids = encode_by_hand(processor, text)
            assert sum(processor.is_byte(token) for token in ids) > 0
            nats[text] = dense_nats(model, ids)
    n_bytes = sum(len(text.encode()) for text in HARD)
    own = found.measures["source/hard/bits_per_byte"]
    assert math.fsum(own.denominators) == n_bytes
    assert sorted(own.numerators) == pytest.approx(
        sorted(cost / math.log(2) for cost in nats.values()), rel=1e-9
    )
    assert own.value == pytest.approx(sum(nats.values()) / math.log(2) / n_bytes, rel=1e-9)


def test_in_float32_it_equals_the_dense_computation(result, trained_run):
    dataset = Dataset.open(trained_run.data.path, split="validation")
    model = load_run(trained_run.run_dir).model.double()
    for source in ("de", "en"):
        own = result.measures[f"source/{source}/bits_per_byte"]
        rows = [dataset.read(source, n).tolist() for n in range(len(own.numerators))]
        assert own.denominators == [len(bytes(ids[1:-1])) for ids in rows]
        with torch.no_grad():
            bits = [dense_nats(model, ids) / math.log(2) for ids in rows]
        assert own.numerators == pytest.approx(bits, rel=2e-6)


def test_a_document_longer_than_a_piece_is_read_on_from_its_state(trained_run):
    model = load_run(trained_run.run_dir).model.double()
    row = np.random.default_rng(0).integers(0, 256, size=2600)
    (scores,) = score_batch(model, [Row(row)], device=CPU)
    with torch.no_grad():
        assert scores.nats.sum() == pytest.approx(dense_nats(model, row.tolist()), rel=1e-9)


def test_ranks_count_what_is_likelier_than_the_target(trained_run):
    model = load_run(trained_run.run_dir).model
    row = np.array([256, *b"der Fluss", 257])
    (scores,) = score_batch(model, [Row(row, n_given=4)], device=CPU)
    assert len(scores.ranks) == len(scores.nats) == len(row) - 4
    for place, rank in enumerate(scores.ranks):
        logits, _ = model.predict(torch.tensor([row[: 4 + place].tolist()]))
        assert logits[0].argsort(descending=True)[rank] == row[4 + place]


def test_training_and_evaluating_give_the_identical_float(result, trained_run):
    last = [r for r in read_records(trained_run.run_dir) if "validation/de/bits_per_byte" in r][-1]
    training, n_context = trained_run.training, trained_run.data.n_context
    same = evaluate_run(trained_run.run_dir, batch_tokens=training.validation_rows * n_context)
    for source in ("de", "en"):
        told = same.measures[f"source/{source}/bits_per_byte"].value
        assert told == pytest.approx(last[f"validation/{source}/bits_per_byte"], rel=1e-14)


def test_twice_gives_the_same_text_and_other_batches_nearly_the_same_figures(result, trained_run):
    again = evaluate_run(trained_run.run_dir)
    assert to_json([again]) == to_json([result])
    other = evaluate_run(trained_run.run_dir, batch_tokens=100)
    for name, own in other.measures.items():
        assert own.value == pytest.approx(result.measures[name].value, rel=1e-6)


def evaluate_on_rank(run_dir):
    return to_json([evaluate_run(run_dir, batch_tokens=200)])


@pytest.mark.ranks
def test_four_ranks_give_the_identical_result(trained_run):
    alone = to_json([evaluate_run(trained_run.run_dir, batch_tokens=200)])
    ranks = Ranks(4)
    try:
        assert set(ranks.run(evaluate_on_rank, trained_run.run_dir)) == {alone}
    finally:
        ranks.stop()


def test_evaluating_draws_no_random_number(trained_run):
    torch.manual_seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1]
    evaluate_run(trained_run.run_dir, max_bytes=300)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


def test_kernels_off_gives_the_same_figures_and_says_so(result, trained_run):
    off = evaluate_run(trained_run.run_dir, backends="reference")
    assert set(off.subject.backends.values()) == {"reference"}
    assert set(off.subject.backends) >= {"ssd", "gla", "sparse", "cross_entropy", "rms_norm"}
    for name, own in off.measures.items():
        assert own.value == pytest.approx(result.measures[name].value, rel=1e-5)


def test_half_precision_is_told_and_close(result, trained_run):
    half = evaluate_run(trained_run.run_dir, precision="bf16")
    assert half.subject.precision == "bf16"
    for name, own in half.measures.items():
        assert own.value != result.measures[name].value
        assert own.value == pytest.approx(result.measures[name].value, rel=0.02)


def test_a_result_names_all_that_its_figures_depend_on(result, trained_run):
    subject = result.subject
    assert len(subject.checkpoint) == len(subject.tokenizer) == 64
    assert (subject.step, subject.precision, subject.device) == (20, "fp32", "cpu")
    assert subject.n_parameters == sum(trained_run.model.parameters_by_part().values())
    assert set(result.sets) == {"de", "en"}
    assert {len(digest) for digest in result.sets.values()} == {64}


def documents_of(*rows):
    names = ("source", "language", "domain", "pair", "text", "nats")
    return [Scored(**dict(zip(names, (*row[:-1], np.array(row[-1])), strict=True))) for row in rows]


@given(lengths=st.lists(st.integers(0, 700), min_size=1, max_size=5))
def test_positions_add_up_to_the_whole(lengths):
    documents = documents_of(*(("a", "de", "", "", "x", np.ones(n)) for n in lengths))
    found = by_position(documents)
    assert set(found.values()) <= {1.0}
    assert set(found) <= {"0-63", "64-127", "128-255", "256-511", "512-1023"}
    assert bool(found) == (sum(lengths) > 0)


def test_a_figure_is_all_bits_over_all_bytes_not_a_mean_of_ratios():
    documents = documents_of(
        ("a", "de", "", "", "ä" * 50, [math.log(2) * 100]),
        ("a", "de", "", "", "b" * 300, [math.log(2) * 300]),
    )
    assert measure_bits(documents).value == pytest.approx(1.0)
    assert measure_bits(documents).denominators == [100, 300]


def test_figures_that_nobody_should_believe_are_warned_of(result):
    leaked = dataclasses.replace(
        result.measures["source/de/bits_per_byte"],
        numerators=[1.0] * len(result.measures["source/de/bits_per_byte"].numerators),
    )
    measures = {**result.measures, "source/de/bits_per_byte": leaked}
    told = " ".join(find_warnings(measures, result.figures["sources"]))
    assert "bits per byte is implausibly few: was this text trained on?" in told
    assert "de: all of one source" in told


def test_a_step_that_has_no_checkpoint_is_refused(trained_run):
    with pytest.raises(CheckpointError, match=r"step=7: no such checkpoint .* there: 18, 20"):
        evaluate_run(trained_run.run_dir, step="7")


def test_another_runs_text_is_read_with_ones_own_tokenizer(result, trained_run):
    other = evaluate_run(trained_run.run_dir, text_of=str(trained_run.run_dir))
    assert other.sets == result.sets
    assert open_examinee(BitsPerByteOptions(run_dir=str(trained_run.run_dir))).config is not None
