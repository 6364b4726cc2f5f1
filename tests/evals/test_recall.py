import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from evals.contract import Subject, refuse_other_sets, to_json
from evals.evaluation import evaluate
from evals.examinee import Examinee, open_examinee
from evals.recall import EVALUATION, RecallOptions, measure
from evals.recall.associative import draw_associative, share_slots
from evals.recall.copying import N_CUE, draw_copying
from evals.recall.haystacks import NEUTRAL, Haystack, take
from evals.recall.items import TooShortError
from evals.recall.needle import DEPTHS, draw_needles
from evals.recall.plan import default_lengths, make_plan
from evals.recall.reading import judge_items
from evals.recall.symbols import ENOUGH, Symbols, find_symbols
from evals.recall.tables import show
from helix.config import ConfigError
from helix.models.base import LanguageModel, TokenScores
from helix.scoring import PIECE_TOKENS
from helix.tokenizer import ByteTokenizer, Tokenizer
from tests.ranks import Ranks

BYTES = ByteTokenizer()
SYMBOLS = find_symbols(BYTES)
SHARPNESS = 50.0


class WordTokenizer(Tokenizer):
    """A vocabulary of words, each with the space before it, and bytes."""

    def __init__(self, n_words: int) -> None:
        letters = "abcdefghijklmnopqrstuvwxyz"
        self.words = [
            f" {letters[n % 26]}{letters[n // 26 % 26]}{letters[n // 676]}" for n in range(n_words)
        ]
        self.n_vocab = 258 + n_words
        self.bos_id, self.eos_id, self.fingerprint = 256, 257, "words"

    def encode(self, text):
        return list(text.encode())

    def encode_many(self, texts):
        return [self.encode(text) for text in texts]

    def token_bytes(self, token):
        return self.words[token - 258].encode() if token >= 258 else BYTES.token_bytes(token)


class Reader(LanguageModel):
    """A model whose state is all that it has read: `next_logits` says what it makes of it."""

    def __init__(self, n_vocab=258):
        super().__init__()
        self.n_vocab = n_vocab
        self.scale = nn.Parameter(torch.ones(()))

    def next_logits(self, read):
        raise NotImplementedError

    def loss(self, batch):
        raise NotImplementedError

    def tie_weights(self):
        pass

    def predict(self, tokens, state=None):
        read = tokens if state is None else torch.cat((state[0][0], tokens), dim=1)
        return torch.stack([self.next_logits(row) for row in read]), ((read,),)

    def score(self, piece):
        n_before = 0 if piece.state is None else piece.state[0][0].shape[1]
        read = piece.tokens
        if piece.state is not None:
            read = torch.cat((piece.state[0][0], read), dim=1)
        logits = torch.stack(
            [
                torch.stack([self.next_logits(row[: n + 1]) for n in range(n_before, len(row))])
                for row in read
            ]
        )
        nats = F.cross_entropy(logits.transpose(1, 2), piece.targets, reduction="none")
        own = logits.gather(2, piece.targets.clamp(min=0)[..., None])
        return TokenScores(nats, (logits > own).sum(2)), ((read,),)


class Copier(Reader):
    """Goes on as it went on after the longest end of the text that was there before."""

    def next_logits(self, read):
        row = read.numpy()
        match = np.ones(len(row) - 1, dtype=bool)
        best = None
        for length in range(1, len(row)):
            # match[i]: the `length` ids that end at i are those that the row ends with
            match[: length - 1] = False
            match &= np.roll(row, length - 1)[: len(match)] == row[-length]
            if not match.any():
                break
            best = int(np.flatnonzero(match)[-1]) + 1
        logits = torch.zeros(self.n_vocab)
        if best is not None:
            logits[row[best]] = SHARPNESS
        return logits


class Uniform(Reader):
    """Knows nothing."""

    def next_logits(self, read):
        return torch.zeros(self.n_vocab)


class Broken(Reader):
    """Gives no numbers."""

    def next_logits(self, read):
        return torch.full((self.n_vocab,), math.nan)


def examinee_of(model, tokenizer=BYTES, n_context=128):
    subject = Subject(
        name="a model",
        checkpoint="x",
        step=None,
        tokenizer=tokenizer.fingerprint,
        precision="fp32",
        backends={},
        device="cpu",
        n_parameters=1,
    )
    return Examinee(model, tokenizer, subject, n_context, None)


def options_of(**given):
    return RecallOptions(**{"model": "x", "filler": "neutral", "n_items": 2, **given})


def rng_of(seed=0):
    return np.random.default_rng(seed)


def haystack_of(n_tokens=4000):
    return Haystack("en", "x", take(BYTES, NEUTRAL, n_tokens))


def draw(task, length, seed=0):
    if task == "associative_recall":
        return draw_associative(SYMBOLS, length, bos_id=BYTES.bos_id, rng=rng_of(seed))
    if task == "copying":
        return draw_copying(BYTES, SYMBOLS, length, rng_of(seed))
    return draw_needles(BYTES, haystack_of(), length, rng_of(seed))


TASK_LENGTHS = st.one_of(
    st.tuples(st.just("associative_recall"), st.integers(12, 700)),
    st.tuples(st.just("copying"), st.integers(32, 700)),
    st.tuples(st.just("needle"), st.integers(330, 900)),
)


@given(drawn=TASK_LENGTHS, seed=st.integers(0, 2**32))
@settings(max_examples=60)
def test_a_row_has_exactly_the_length_that_was_asked_for_and_ends_with_its_last_answer(drawn, seed):
    item = draw(*drawn, seed)
    assert item.length == drawn[1] == len(item.ids) - 1
    assert item.ids[0] == BYTES.bos_id
    assert item.places[-1] == item.length
    assert list(item.places) == sorted(set(item.places))


@given(drawn=TASK_LENGTHS, seed=st.integers(0, 2**32))
@settings(max_examples=30)
def test_the_same_seed_draws_the_same_row_and_another_seed_another(drawn, seed):
    assert np.array_equal(draw(*drawn, seed).ids, draw(*drawn, seed).ids)
    assert draw(*drawn, seed).answers == draw(*drawn, seed).answers
    assert not np.array_equal(draw(*drawn, seed).ids, draw(*drawn, seed + 1).ids)


@given(length=st.integers(12, 700), seed=st.integers(0, 2**32))
@settings(max_examples=60)
def test_each_value_stands_once_behind_its_key_and_nowhere_else_is_that_key(length, seed):
    item = draw("associative_recall", length, seed)
    n_pairs, n_queries, n_key = share_slots(SYMBOLS, length)
    assert len(item.answers) == n_queries
    first = item.answers[0].start - n_key
    slots = item.ids[first - n_pairs * (n_key + 1) :].reshape(-1, n_key + 1)
    told = {tuple(slot[:-1]): slot[-1] for slot in slots[:n_pairs]}
    assert len(told) == n_pairs
    assert len({tuple(slot[:-1]) for slot in slots[n_pairs:]}) == n_queries
    for answer, slot in zip(item.answers, slots[n_pairs:], strict=True):
        assert item.ids[answer.start] == told[tuple(slot[:-1])] == slot[-1]
        assert slot[-1] in answer.candidates
        assert set(answer.candidates) <= set(told.values())
    assert set(slots[:, :-1].ravel()) <= set(SYMBOLS.keys)
    assert set(slots[:, -1]) <= set(SYMBOLS.values)


@given(length=st.integers(330, 900), seed=st.integers(0, 2**32))
@settings(max_examples=40)
def test_each_number_is_told_once_with_its_name_at_its_depth_and_asked_for_at_the_end(length, seed):
    item = draw("needle", length, seed)
    text = BYTES.decode(item.ids.tolist())
    assert sorted(answer.part for answer in item.answers) == sorted(f"depth_{d}" for d in DEPTHS)
    starts = {}
    for answer in item.answers:
        number = BYTES.decode(item.ids[answer.start : answer.start + answer.n_tokens].tolist())
        assert number.endswith(".")
        fact = text[: text.index(number)].rpartition("The number of ")[2] + number
        assert text.count(f"The number of {fact}") == 2  # told, and asked for
        starts[int(answer.part.removeprefix("depth_"))] = text.index(f"The number of {fact}")
        assert len(set(answer.candidates)) == len(DEPTHS)
        assert item.ids[answer.start] in answer.candidates
    assert [starts[depth] for depth in DEPTHS] == sorted(starts.values())
    assert starts[0] < 0.05 * len(text) + 10


@given(length=st.integers(32, 700), seed=st.integers(0, 2**32))
@settings(max_examples=40)
def test_a_copy_follows_its_sequence_and_its_first_tokens_are_given(length, seed):
    item = draw("copying", length, seed)
    (answer,) = item.answers
    n_symbols = answer.n_tokens + N_CUE
    sequence, copy = item.ids[1 : 1 + n_symbols], item.ids[-n_symbols:]
    assert np.array_equal(sequence, copy)
    between = BYTES.decode(item.ids[1 + n_symbols : -n_symbols].tolist())
    assert set(between) == {"\n"}


@pytest.mark.parametrize(
    ("task", "length"), [("associative_recall", 11), ("copying", 20), ("needle", 200)]
)
def test_a_length_that_a_task_does_not_fit_into_is_refused_with_what_it_needs(task, length):
    with pytest.raises(TooShortError, match="needs at least") as told:
        draw(task, length)
    needed = int(str(told.value).split()[3])
    assert draw(task, needed).length == needed


def test_symbols_are_words_where_there_are_enough_else_the_kind_of_which_there_are_most():
    words = WordTokenizer(ENOUGH)
    found = find_symbols(words)
    assert {words.token_bytes(t)[:1] for t in found.all} == {b" "}
    assert len(found.keys) == len(found.values) == ENOUGH // 2
    assert not set(found.keys) & set(found.values)
    assert {chr(token) for token in SYMBOLS.all} == {chr(n) for n in range(33, 127)}
    few = find_symbols(WordTokenizer(60))
    assert {chr(token) for token in few.all} == {chr(n) for n in range(33, 127)}


@given(n_keys=st.integers(1, 10_000))
def test_keys_take_no_more_tokens_than_they_must(n_keys):
    symbols = Symbols(keys=tuple(range(10)), values=(11,))
    n_tokens = symbols.key_tokens(n_keys)
    assert 10**n_tokens >= n_keys
    assert n_tokens == 1 or 10 ** (n_tokens - 1) < n_keys


def figures_of(model, **given):
    result = measure(examinee_of(model), options_of(**given))
    return {name: own.value for name, own in result.measures.items()}, result


def test_a_model_that_looks_up_what_it_has_read_finds_everything():
    found, result = figures_of(Copier(), lengths="64,130,400", n_items=1)
    shares = {name: value for name, value in found.items() if name.endswith("accuracy")}
    assert {name.split("/")[0] for name in shares} == {"associative_recall", "needle", "copying"}
    assert set(shares.values()) == {1.0}
    assert {entry["length"] for entry in result.figures["left_out"]} == {64, 130}
    assert all(found[name] < 1e-6 for name in found if "/nats_per" in name)


def test_a_model_that_knows_nothing_chooses_by_chance():
    found, result = figures_of(Uniform(), lengths="400", tasks="associative_recall,needle")
    for task, chance in (("associative_recall", 1 / 8), ("needle", 1 / 5)):
        assert result.figures["chance"][f"{task}/400"] == pytest.approx(chance)
        assert found[f"{task}/among_candidates/400/accuracy"] == pytest.approx(chance)
        assert found[f"{task}/400/accuracy"] <= 1.001 / 258
    assert found["associative_recall/400/nats_per_answer"] == pytest.approx(math.log(258))


def test_a_model_that_gives_no_numbers_finds_nothing_and_is_warned_of():
    found, result = figures_of(Broken(), lengths="400")
    assert {value for name, value in found.items() if name.endswith("accuracy")} == {0.0}
    assert not [name for name in found if "nats" in name]
    assert sum("not numbers" in warning for warning in result.warnings) == 3
    json.loads(to_json([result]))


def test_needles_in_a_text_of_words_are_found_by_their_first_different_token():
    tokenizer = WordTokenizer(600)
    copier = examinee_of(Copier(tokenizer.n_vocab), tokenizer)
    result = measure(copier, options_of(lengths="512", n_items=1))
    for task in ("associative_recall", "needle", "copying"):
        assert result.measures[f"{task}/512/accuracy"].value == 1.0


def recall_of(run, **given):
    settings = {"lengths": "32,64,400", "n_items": 3, **given}
    return evaluate(EVALUATION, RecallOptions(run_dir=str(run.run_dir), **settings))


@pytest.fixture(scope="module")
def result(trained_run):
    return recall_of(trained_run)


def test_a_run_is_evaluated_beyond_its_context_and_what_is_left_out_is_named(result, trained_run):
    assert trained_run.data.n_context == 32
    for name in (
        "associative_recall/64/accuracy",
        "associative_recall/among_candidates/400/accuracy",
        "copying/32/accuracy",
        "copying/whole/400/accuracy",
        "needle/400/depth_50/accuracy",
    ):
        assert 0 <= result.measures[name].value <= 1
    assert {(e["task"], e["length"]) for e in result.figures["left_out"]} == {
        ("needle", 32),
        ("needle", 64),
    }
    assert any(warning.startswith("needle: not measured at 32") for warning in result.warnings)


@pytest.mark.parametrize("length", [130, 2 * PIECE_TOKENS + 100])
def test_it_equals_reading_the_whole_row_at_once(trained_run, length):
    examinee = open_examinee(RecallOptions(run_dir=str(trained_run.run_dir)))
    model = examinee.model.double()
    items = [draw("associative_recall", length, seed) for seed in range(2)]
    judged = judge_items(examinee, items, options_of(), title="x")
    for item, row in zip(items, judged, strict=True):
        tokens = torch.from_numpy(item.ids[None])
        with torch.no_grad():
            hidden, _ = model.stack(model.embedding(tokens), torch.zeros_like(tokens))
            logits = hidden[0] @ model.head.weight.T
        for answer, own in zip(item.answers, row, strict=True):
            before, right = logits[answer.start - 1], item.ids[answer.start]
            nats = -before.log_softmax(-1)[right]
            assert own.nats == pytest.approx(nats.item(), rel=1e-9)
            assert 1 / own.reciprocal_rank == 1 + (before > before[right]).sum()


def test_twice_gives_the_same_text_and_other_batches_the_same_shares(result, trained_run):
    assert to_json([recall_of(trained_run)]) == to_json([result])
    other = recall_of(trained_run, batch_tokens=100)
    assert other.measures.keys() == result.measures.keys()
    for name, own in other.measures.items():
        assert own.value == pytest.approx(result.measures[name].value, rel=1e-5, abs=1e-12)


def recall_on_rank(run):
    return to_json([recall_of(run)])


@pytest.mark.ranks
def test_two_ranks_give_the_identical_result(result, trained_run):
    ranks = Ranks(2)
    try:
        assert set(ranks.run(recall_on_rank, trained_run)) == {to_json([result])}
    finally:
        ranks.stop()


def test_other_items_are_no_set_to_compare_with(trained_run):
    small = {"tasks": "copying", "lengths": "32"}
    copied = recall_of(trained_run, **small)
    refuse_other_sets(copied, recall_of(trained_run, **small, backends="reference"))
    for words in ({"seed": 1}, {"n_items": 2}, {"lengths": "40"}):
        with pytest.raises(ConfigError):
            refuse_other_sets(copied, recall_of(trained_run, **{**small, **words}))


def test_lengths_go_from_half_the_context_of_training_to_four_times_it():
    assert default_lengths(4096) == [512, 1024, 2048, 4096, 8192, 16384]
    assert default_lengths(32768)[-1] == 131072
    assert default_lengths(256) == [128, 256, 512, 1024]
    assert default_lengths(32) == [64, 128]


def test_long_rows_are_fewer_but_never_one():
    options = options_of(n_items=8)
    assert [options.n_rows(n) for n in (512, 4096, 8192, 16384, 131072)] == [8, 8, 4, 2, 2]
    assert options_of(n_items=1).n_rows(131072) == 1


def test_a_plan_leaves_out_what_is_too_much_to_read_or_to_hold(trained_run):
    examinee = open_examinee(RecallOptions(run_dir=str(trained_run.run_dir)))
    words = {"run_dir": "x", "tasks": "copying", "lengths": "64,128,256", "n_items": 1}
    plan = make_plan(examinee, RecallOptions(**words, max_tokens=200))
    assert plan.lengths == {"copying": [64, 128]}
    assert [entry["length"] for entry in plan.left_out] == [256]
    assert "max_tokens=200" in plan.left_out[0]["why"]
    plan = make_plan(examinee, RecallOptions(**words, max_state_gib=1e-9))
    assert plan.lengths == {"copying": []}
    assert all("max_state_gib" in entry["why"] for entry in plan.left_out)


@pytest.mark.parametrize(
    ("word", "value", "told"),
    [
        ("tasks", "needel", "needle"),
        ("lengths", "512,x", "lengths=512,2048"),
        ("lengths", "8", "at least 12"),
        ("n_items", 0, "at least 1"),
        ("max_tokens", 0, "at least 1"),
        ("n_symbols", 3, "at least 4"),
        ("max_state_gib", 0.0, "more than 0"),
        ("filler", "none", "held_out or neutral"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(word, value, told):
    with pytest.raises(ConfigError, match=told) as refusal:
        options_of(**{word: value})
    assert str(refusal.value).startswith(f"{word}=")


def test_the_table_marks_lengths_beyond_the_context_of_training(result):
    console = Console(record=True, width=200)
    show(result, console)
    text = console.export_text()
    assert "0.125 by chance" in text
    assert "100%" in text
    assert "beyond the context of training, 32 tokens" in text
    lines = [line for line in text.splitlines() if "400 *" in line]
    assert len(lines) == 3
    show(dataclasses.replace(result, measures={}), console)
