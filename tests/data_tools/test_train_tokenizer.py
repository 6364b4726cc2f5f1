import random

import pytest

from data_tools.documents import Document
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
    (tmp_path / "x.txt").write_text(documents_of(200)[0].text, encoding="utf-8")
    options = TrainTokenizerOptions(
        inputs=(str(tmp_path / "x.txt"),), out=str(tmp_path / "new" / "a.model"), n_vocab=350
    )
    assert run(options).n_vocab == 350
    assert capfd.readouterr() == ("", "")
