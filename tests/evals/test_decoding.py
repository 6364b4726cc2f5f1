import dataclasses
import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from evals import decoding
from evals.contract import Subject, refuse_other_sets, to_json
from evals.decoding import (
    EVALUATION,
    LOOP_CHARACTERS,
    DecodingOptions,
    cut_prompt,
    measure_loop,
    measure_texts,
    read_habits,
    show,
)
from evals.evaluation import evaluate
from evals.examinee import Examinee, open_examinee
from evals.options import Options
from evals.sampling import continue_rows, count_characters
from helix.config import ConfigError
from helix.generate import GenerateConfig, sample_ids
from helix.models.base import LanguageModel
from helix.tokenizer import ByteTokenizer
from tests.ranks import Ranks

BYTES = ByteTokenizer()
SMALL = {"n_prompts": 2, "prompt_characters": 12, "n_characters": 40}


def decode_run(run, **given):
    return evaluate(EVALUATION, DecodingOptions(run_dir=str(run.run_dir), **{**SMALL, **given}))


@pytest.fixture(scope="module")
def result(trained_run):
    return decode_run(trained_run)


def test_groups_of_words_are_counted_as_by_hand():
    # a b c d | b c d a | c d a b | d a b c | a b c d: 5 groups of 4, the last one stood before
    own = read_habits("A b c d a b c d")
    assert own.repetition == pytest.approx(1 / 5)
    assert own.distinct == pytest.approx((4 / 8, 4 / 7, 4 / 6))
    # Die Zahl , die : 4 words and a sign; "die" is there twice, capitals count for nothing
    assert read_habits("Die Zahl, die").distinct == pytest.approx((3 / 4, 1.0, 1.0))
    assert read_habits("漢字漢字").distinct == pytest.approx((2 / 4, 2 / 3, 1.0))


@pytest.mark.parametrize("text", ["", " ", "ein", "so ist es"])
def test_a_text_without_groups_repeats_nothing(text):
    assert read_habits(text).repetition == 0
    assert read_habits(text).loop_characters == 0


def test_a_loop_is_an_end_that_is_said_three_times():
    piece = "and the river "
    assert measure_loop("Once: " + piece * 3) == len(piece * 3)  # with the space before it
    assert measure_loop("Once:" + piece * 3 + "and t") == len(piece * 3 + "and t")
    assert measure_loop("Once upon a time " + piece * 2) == 0
    assert measure_loop(piece * 3 + "came to its end.") == 0
    assert measure_loop("x" * LOOP_CHARACTERS) == LOOP_CHARACTERS
    assert measure_loop("wait" + "." * (LOOP_CHARACTERS - 1)) == 0


@given(
    start=st.text(max_size=20),
    piece=st.text("abcd", min_size=9, max_size=15),
    n_times=st.integers(3, 6),
    n_more=st.integers(0, 8),
)
def test_any_piece_said_again_and_again_is_a_loop_wherever_it_is_cut(start, piece, n_times, n_more):
    loop = piece * n_times + piece[:n_more]
    assert measure_loop(start + loop) >= len(loop)


@given(text=st.text(max_size=80))
def test_habits_are_shares_of_any_text(text):
    own = read_habits(text)
    assert 0 <= own.repetition <= 1
    assert all(0 < share <= 1 for share in own.distinct)
    assert own.loop_characters == 0 or LOOP_CHARACTERS <= own.loop_characters <= len(text)


@given(text=st.text("ab \n.", max_size=60))
def test_prompt_and_following_text_are_the_document_again(text):
    options = DecodingOptions(model="x", prompt_characters=10, n_characters=20)
    prompt = cut_prompt(text, "en", options)
    if prompt is None:
        assert len(text) < 30
        return
    assert text.startswith(prompt.given + prompt.following)
    assert len(prompt.given) <= 10
    assert len(prompt.following) == 20


def test_a_prompt_ends_where_a_word_ends():
    options = DecodingOptions(model="x", prompt_characters=12, n_characters=5)
    assert cut_prompt("der Fluss fließt langsam", "de", options).given == "der Fluss"
    assert cut_prompt("Donaudampfschifffahrt ist", "de", options).given == "Donaudampfsc"


def test_languages_have_as_many_prompts_and_authors_stand_beside_the_model(result):
    assert result.figures["languages"] == ["de", "en"]
    for way in ("author", "greedy", "sampled"):
        for language in ("de", "en"):
            for what in ("repetition", "distinct_1", "distinct_3", "loop", "ended", "characters"):
                own = result.measures[f"{way}/{language}/{what}"]
                assert len(own.numerators) == 2
                assert 0 <= own.value <= (40 if what == "characters" else 1)
    assert result.measures["author/de/characters"].value == 40
    assert set(result.sets) == {"de", "en"}
    assert any("say little" in warning for warning in result.warnings)


def test_samples_are_kept_with_how_they_were_written(result):
    samples = result.figures["samples"]
    assert {sample["how"] for sample in samples} == {"author", "greedy", "sampled"}
    assert all(sample["prompt"] and isinstance(sample["text"], str) for sample in samples)
    assert next(s for s in samples if s["how"] == "sampled")["temperature"] == 0.8


def test_twice_gives_the_same_text_and_another_seed_other_samples(result, trained_run):
    assert to_json([decode_run(trained_run)]) == to_json([result])
    other = decode_run(trained_run, seed=1)
    texts = [[s["text"] for s in r.figures["samples"]] for r in (result, other)]
    hows = [s["how"] for s in result.figures["samples"]]
    for how, one, two in zip(hows, *texts, strict=True):
        assert (one == two) == (how != "sampled")
    with pytest.raises(ConfigError, match="seed"):
        refuse_other_sets(result, other)


def decode_on_rank(run):
    return to_json([decode_run(run)])


@pytest.mark.ranks
def test_two_ranks_give_the_identical_result(result, trained_run):
    ranks = Ranks(2)
    try:
        assert set(ranks.run(decode_on_rank, trained_run)) == {to_json([result])}
    finally:
        ranks.stop()


def test_without_the_identifier_the_language_is_said_not_to_be_measured(trained_run, monkeypatch):
    monkeypatch.setattr(decoding, "IDENTIFIER", "no_such_package")
    told = decode_run(trained_run)
    assert not [name for name in told.measures if name.endswith("/language")]
    assert [w for w in told.warnings if w.startswith("language: not measured: no_such_package")]


@pytest.mark.skipif(
    importlib.util.find_spec("py3langid") is None, reason="py3langid is not installed"
)
def test_a_text_in_another_language_than_its_prompt_is_found():
    texts = {
        "de": "Der Fluss fließt langsam über die grünen Wiesen und die Brücke trägt ihn nicht.",
        "en": "The river flows slowly over the green fields and the bridge does not carry it.",
        "": "",
    }
    written = [
        decoding.Written(language="de", given="Es war", text=text, has_ended=False)
        for text in texts.values()
    ]
    own = measure_texts("x", written, decoding.load_identifier())["x/language"]
    assert own.numerators == [1, 0, 0]


def test_documents_that_are_too_short_are_told(trained_run):
    with pytest.raises(ConfigError, match="no held-out document has 9012 characters"):
        decode_run(trained_run, n_characters=9000)


@pytest.mark.parametrize(
    ("word", "value"),
    [("n_prompts", 0), ("n_characters", 0), ("temperature", 0.0), ("top_p", 1.5)],
)
def test_a_wrong_option_is_refused_in_one_line(word, value):
    with pytest.raises(ConfigError, match=f"^{word}="):
        DecodingOptions(model="x", **{word: value})


def test_the_table_has_a_line_for_each_way_and_language(result):
    console = Console(record=True, width=200)
    show(result, console)
    text = console.export_text()
    assert all(f"{way}/de" in text for way in ("author", "greedy", "sampled"))
    show(dataclasses.replace(result, figures={"samples": []}), console)


@pytest.fixture(scope="module")
def examinee(trained_run):
    return open_examinee(Options(run_dir=str(trained_run.run_dir)))


@given(lengths=st.lists(st.integers(0, 8), min_size=1, max_size=3), temperature=st.floats(0, 1))
@settings(max_examples=10)
def test_prompts_of_any_lengths_go_on_together_as_each_does_alone(examinee, lengths, temperature):
    prompts = [[256, *range(length)] for length in lengths]
    words = {"n_tokens": 4, "temperature": temperature, "seed": 3}
    together = continue_rows(examinee, prompts, **words)
    alone = [continue_rows(examinee, [prompt], **words)[0] for prompt in prompts]
    assert together[0] == alone[0]  # a row's generator is that of its number
    if temperature == 0:
        assert together == alone
        options = GenerateConfig(temperature=0, n_tokens=4)
        for prompt, ids in zip(prompts, together, strict=True):
            assert list(sample_ids(examinee.model, prompt, options, eos_id=257)) == ids


@given(n_characters=st.integers(1, 30), temperature=st.sampled_from([0.0, 1.0]))
@settings(max_examples=10)
def test_a_text_that_is_long_enough_is_the_beginning_of_a_longer_one(
    examinee, n_characters, temperature
):
    words = {"n_tokens": 40, "temperature": temperature}
    prompts = [[256], [256, *b"Fl", 195], [256, *b"the river"]]
    short = continue_rows(examinee, prompts, n_characters=n_characters, **words)
    for ids, whole in zip(short, continue_rows(examinee, prompts, **words), strict=True):
        assert ids == whole[: len(ids)]
        assert len(ids) == len(whole) or len(BYTES.decode(ids)) >= n_characters
        text = b"".join(BYTES.token_bytes(token) for token in ids[:-1])
        assert count_characters(text) < n_characters


class Ending(LanguageModel):
    """Ends every document after as many tokens as its first byte says."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def loss(self, batch):
        raise NotImplementedError

    def tie_weights(self):
        raise NotImplementedError

    def score(self, piece):
        raise NotImplementedError

    def predict(self, tokens, state=None):
        read = tokens if state is None else torch.cat((state[0][0], tokens), dim=1)
        is_over = read.shape[1] - 2 >= read[:, 1]
        token = torch.where(is_over, BYTES.eos_id, 97)
        return nn.functional.one_hot(token, 258).float(), ((read,),)


def test_a_document_that_has_ended_waits_for_the_others():
    subject = Subject(
        name="x",
        checkpoint="x",
        step=None,
        tokenizer="x",
        precision="fp32",
        backends={},
        device="cpu",
        n_parameters=1,
    )
    examinee = Examinee(Ending(), BYTES, subject, 64, None)
    prompts = [[256, 3], [256, 0], [256, 9]]
    found = continue_rows(examinee, prompts, n_tokens=6)
    assert found == [[97] * 3, [], [97] * 6]
