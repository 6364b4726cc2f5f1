import json
import random
import re

import pytest

from data_tools import train_tokenizer as train_tokenizer_module
from data_tools.documents import Document, read_documents, write_documents
from data_tools.train_tokenizer import N_RESERVED, TrainTokenizerOptions, run, train_tokenizer
from helix.data import DataError

SYLLABLES = ["ba", "de", "gi", "lo", "mu", "schä", "ßer", "straße", "ung", "keit"]


def documents_of(n_lines, *, seed=0):
    draw = random.Random(seed)

    def word():
        return "".join(draw.choices(SYLLABLES, k=draw.randint(1, 4)))

    lines = [
        " ".join(word() for _ in range(10)) + f" {draw.randint(0, 9999)}" for _ in range(n_lines)
    ]
    return [Document(id="0", text="\n".join(lines), source="x", language="x", licence="none")]


KINDS = pytest.mark.parametrize("kind", ["unigram", "bpe"])


@KINDS
def test_the_same_text_gives_the_same_vocabulary(tmp_path, kind):
    first = train_tokenizer(documents_of(300), tmp_path / "a.model", model_type=kind, n_vocab=400)
    again = train_tokenizer(documents_of(300), tmp_path / "b.model", model_type=kind, n_vocab=400)
    assert first.fingerprint == again.fingerprint
    assert first.n_vocab == 400
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.model", "b.model"]


@KINDS
def test_special_pieces_have_the_ids_of_the_seed(tmp_path, kind):
    tokenizer = train_tokenizer(
        documents_of(300), tmp_path / "a.model", model_type=kind, n_vocab=400
    )
    assert (tokenizer.bos_id, tokenizer.eos_id) == (2, 3)
    assert tokenizer.processor.pad_id() == 0
    assert tokenizer.processor.unk_id() == 1


@KINDS
def test_no_piece_holds_two_digits_or_reaches_over_a_line(tmp_path, kind):
    tokenizer = train_tokenizer(
        documents_of(300), tmp_path / "a.model", model_type=kind, n_vocab=400
    )
    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.n_vocab)]
    assert not [piece for piece in pieces if sum(48 <= byte < 58 for byte in piece) > 1]
    assert [piece for piece in pieces if b"\n" in piece] == [b"\n", b"\n"]  # piece, and byte
    assert len(tokenizer.encode("1984")) == 4


@KINDS
def test_a_text_too_small_for_the_vocabulary_gets_as_much_as_it_fills(tmp_path, kind):
    tokenizer = train_tokenizer(
        documents_of(3), tmp_path / "a.model", model_type=kind, n_vocab=8000
    )
    assert N_RESERVED < tokenizer.n_vocab < 8000
    assert tokenizer.decode(tokenizer.encode("schöne Grüße 🧬")) == "schöne Grüße 🧬"


@KINDS
@pytest.mark.parametrize("n_vocab", [10, 262, 270])
def test_a_vocabulary_too_small_is_refused_and_nothing_is_written(tmp_path, kind, n_vocab):
    with pytest.raises(DataError, match=rf"n_vocab={n_vocab}: too small"):
        train_tokenizer(documents_of(50), tmp_path / "a.model", model_type=kind, n_vocab=n_vocab)
    assert list(tmp_path.iterdir()) == []


def test_no_text_is_refused(tmp_path):
    with pytest.raises(DataError, match="no text to train the tokenizer on"):
        train_tokenizer([], tmp_path / "a.model")


def test_a_line_longer_than_sentencepiece_reads_is_not_lost(tmp_path):
    text = "qwertz " * 20_000
    document = Document(id="0", text=text, source="x", language="x", licence="none")
    tokenizer = train_tokenizer([document], tmp_path / "a.model", model_type="bpe", n_vocab=300)
    assert len(tokenizer.encode(" qwertz")) == 1


def test_training_is_silent(tmp_path, capfd):
    train_tokenizer(documents_of(200), tmp_path / "a.model", n_vocab=350)
    assert capfd.readouterr() == ("", "")


def test_control_characters_take_no_piece(tmp_path):
    text = "\n".join(["a\0b\x1bc\x07 x"] * 500)
    document = Document(id="0", text=text, source="x", language="x", licence="none")
    tokenizer = train_tokenizer([document], tmp_path / "a.model", model_type="bpe", n_vocab=300)
    pieces = [tokenizer.processor.id_to_piece(token) for token in range(tokenizer.n_vocab)]
    assert not [piece for piece in pieces if {*piece} & {"\0", "\x1b", "\x07"}]
    assert len(tokenizer.encode("abc")) == 1


@KINDS
def test_rare_characters_get_pieces_as_coverage_says(tmp_path, kind):
    documents = documents_of(300)
    rare = Document(id="1", text="\u1234", source="x", language="x", licence="none")
    kinds = {
        coverage: train_tokenizer(
            [*documents, rare],
            tmp_path / "a.model",
            model_type=kind,
            n_vocab=400,
            character_coverage=coverage,
        )
        for coverage in (0.9995, 1.0)
    }
    assert len(kinds[0.9995].encode("\u1234")) == 3
    assert len(kinds[1.0].encode("\u1234")) == 1


def test_training_that_would_not_fit_the_memory_is_refused_before_it_starts(tmp_path):
    with pytest.raises(
        DataError, match=r"300 lines .* needs about 0\.3 GiB.*give a larger max_mem"
    ):
        train_tokenizer(documents_of(300), tmp_path / "a.model", n_vocab=400, max_memory_gib=0.1)
    assert list(tmp_path.iterdir()) == []


def test_the_memory_that_is_free_is_what_the_jobs_limit_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr("helix.preflight.memory.left_in_cgroups", lambda: [2**27])
    with pytest.raises(DataError, match=r"more than the 0\.1 GiB that it may take"):
        train_tokenizer(documents_of(300), tmp_path / "a.model", n_vocab=400)


def test_as_many_lines_as_the_refusal_names_fit(tmp_path, monkeypatch):
    monkeypatch.setitem(train_tokenizer_module.BYTES_PER_BYTE, "bpe", 1e5)

    def train(n_sentences):
        train_tokenizer(
            documents_of(600),
            tmp_path / "a.model",
            model_type="bpe",
            n_vocab=400,
            n_sentences=n_sentences,
            max_memory_gib=1.0,
        )

    with pytest.raises(DataError) as refused:
        train(None)
    train(int(re.search(r"give n_sentences=(\d+)", str(refused.value))[1]))
    assert (tmp_path / "a.model").exists()


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    documents = [
        Document(
            id=str(number),
            text=documents_of(30, seed=number)[0].text,
            source="x",
            language="de",
            licence="none",
            domain="help" if number % 2 else "quotes",
        )
        for number in range(60)
    ]
    path = tmp_path_factory.mktemp("text") / "x.jsonl"
    write_documents(documents, path)
    return path


def options_of(text_file, tmp_path, **other):
    given = {"n_vocab": 450, "held_out_share": 0.3} | other
    return TrainTokenizerOptions(
        inputs=(str(text_file),), out=str(tmp_path / "new" / "a.model"), **given
    )


def test_the_verb_trains_reports_and_keeps_what_it_held_out(text_file, tmp_path, capsys):
    report = run(options_of(text_file, tmp_path, json=True))
    assert report.n_vocab == 450
    assert report.n_symbols == 34
    assert report.limits == {}
    assert all(gate.has_passed for gate in report.gates)
    names = ["a.model", "a.model.held_out.jsonl", "a.model.report.json"]
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == names
    held_out = {d.id for d in read_documents([tmp_path / "new" / "a.model.held_out.jsonl"])}
    assert 5 < len(held_out) < 30
    assert report.uses[0].n_documents == len(held_out)
    assert [use.domain for use in report.uses] == ["", "help", "quotes"]
    out, err = capsys.readouterr()
    assert err == ""
    printed = json.loads(out)
    written = json.loads((tmp_path / "new" / "a.model.report.json").read_text())
    assert printed == written
    assert written["uses"][0]["tokens_per_100_words"] == report.uses[0].tokens_per_100_words
    assert written["settings"]["character_coverage"] == 0.99995


def test_the_same_command_gives_the_same_model_and_held_out_text(text_file, tmp_path):
    for folder in ("a", "b"):
        run(options_of(text_file, tmp_path / folder, n_sentences=900))
    files = ("new/a.model", "new/a.model.held_out.jsonl")
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_model_that_fails_a_gate_does_not_take_the_place_of_one(text_file, tmp_path, capsys):
    run(options_of(text_file, tmp_path))
    before = (tmp_path / "new" / "a.model").read_bytes()
    with pytest.raises(DataError, match=r"a\.model\.failed: failed 1 of .* at most 10 tokens"):
        run(options_of(text_file, tmp_path, n_vocab=460, limits="de:10"))
    assert (tmp_path / "new" / "a.model").read_bytes() == before
    names = {file.name for file in (tmp_path / "new").iterdir()}
    assert {"a.model.failed", "a.model.failed.report.json"} <= names
    assert "FAILED" in capsys.readouterr().out
    report = run(options_of(text_file, tmp_path, n_vocab=460, limits="de:10", gates=False))
    assert (tmp_path / "new" / "a.model").read_bytes() != before
    assert not all(gate.has_passed for gate in report.gates)


def test_default_limits_hold_for_those_who_ask_for_200000_ids(text_file, tmp_path):
    with pytest.raises(DataError, match="de: at most 150 tokens per 100 words"):
        run(options_of(text_file, tmp_path, n_vocab=200_000))


def test_a_given_limit_is_held_where_no_text_is_of_its_language(text_file, tmp_path):
    with pytest.raises(DataError, match=r"ge: at most 1000 .*only 0 words held out"):
        run(options_of(text_file, tmp_path, limits="de:1000,ge:1000"))


def test_limits_may_be_held_to_some_domains(text_file, tmp_path):
    options = options_of(text_file, tmp_path, limits="de:1000", limit_domains=("poetry",))
    with pytest.raises(DataError, match=r"de in poetry: .*only 0 words held out"):
        run(options)


def test_a_model_is_measured_alone(text_file, tmp_path, capsys):
    run(options_of(text_file, tmp_path))
    model = str(tmp_path / "new" / "a.model")
    inputs = (f"{model}.held_out.jsonl",)
    assert all(g.has_passed for g in run(TrainTokenizerOptions(inputs=inputs, check=model)).gates)
    with pytest.raises(DataError, match="at most 10 tokens"):
        run(TrainTokenizerOptions(inputs=inputs, check=model, limits="de:10"))
    assert "symbols" in capsys.readouterr().out


def test_a_model_without_symbols_fails_unless_none_are_asked_for(text_file, tmp_path):
    model = str(tmp_path / "a.model")
    train_tokenizer(documents_of(300), model, n_vocab=400)
    options = {"inputs": (str(text_file),), "check": model}
    with pytest.raises(DataError, match=r"34 reserved symbols \(found: missing: <\|system\|>"):
        run(TrainTokenizerOptions(**options))
    assert run(TrainTokenizerOptions(**options, symbols="none")).n_symbols == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "give out="),
        ({"out": "a", "check": "b"}, "give out="),
        ({"out": "a", "character_coverage": 0.0}, "character_coverage=0.0"),
        ({"out": "a", "held_out_share": 1.0}, "held_out_share=1.0"),
        ({"out": "a", "n_sentences": 0}, "n_sentences=0"),
        ({"out": "a", "max_memory_gib": 0.0}, "max_memory_gib=0.0"),
        ({"out": "a", "limits": "de"}, "limits=de: write a language"),
        ({"out": "a", "limits": "de:-1"}, "limits=de:-1"),
        ({"out": "a", "limits": ":5"}, "limits=:5"),
    ],
)
def test_a_wrong_option_is_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainTokenizerOptions(inputs=("x",), **wrong)
