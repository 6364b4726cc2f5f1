import random
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_tools.documents import Document
from data_tools.train_tokenizer import train_tokenizer
from helix.chat import SYMBOLS
from helix.tokenizer import (
    ByteTokenizer,
    SentencePieceTokenizer,
    TokenizerConfig,
    load_tokenizer,
)

WORDS = [
    "Der",
    "Hund",
    "läuft",
    "über",
    "die Straße",
    "und",
    "the quick",
    "fox",
    "returns 1984",
    "",
]


def write_text(n_lines: int) -> list[Document]:
    draw = random.Random(0)
    lines = [" ".join(draw.choices(WORDS, k=12)) for _ in range(n_lines)]
    return [Document(id="0", text="\n".join(lines), source="x", language="x", licence="none")]


def spell_symbols() -> list[Document]:
    text = "\n".join(SYMBOLS) * 20
    return [Document(id="1", text=text, source="x", language="x", licence="none")]


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    documents = write_text(500)
    return {
        "byte": ByteTokenizer(),
        **{
            kind: train_tokenizer(documents, folder / f"{kind}.model", model_type=kind, n_vocab=400)
            for kind in ("unigram", "bpe")
        },
        **{
            f"{kind} chat": train_tokenizer(
                # text that spells symbols, over and over, must not make pieces of them
                documents + spell_symbols(),
                folder / f"{kind}-chat.model",
                model_type=kind,
                n_vocab=440,
                symbols="chat",
            )
            for kind in ("unigram", "bpe")
        },
    }


KINDS = pytest.mark.parametrize("kind", ["byte", "unigram", "bpe", "unigram chat", "bpe chat"])
CHAT_KINDS = pytest.mark.parametrize("kind", ["unigram chat", "bpe chat"])
TRAPS = [
    "\u2581",
    " \u2581 ",
    "\x00",
    "a\x00\u2581b",
    "<s></s><unk><pad>",
    "<0x0A>",
    "<|user|>",
    "<|end|><|assistant|>",
    " <|spare_10|> ",
    "<|",
    "\ufeff",
    "\ufffd",
    "ﬁ²①",
    "a\u0308",
    "\u2028\r\n\t",
    "   ",
]
TEXT = st.text() | st.lists(st.sampled_from([*TRAPS, *WORDS, " ", "\n"])).map("".join)


@KINDS
@given(text=TEXT)
@settings(deadline=None, max_examples=150)
@example(text="".join(TRAPS))
@example(text="  zwei vorn, zwei hinten  \n\n\n")
def test_any_unicode_text_comes_back_byte_for_byte(tokenizers, kind, text):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert tokenizer.encode_many([text, "x"]) == [ids, tokenizer.encode("x")]
    assert not {*tokenizer.symbol_ids.values()} & {*ids}


@KINDS
@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_streamed_text_joins_to_the_whole_text_even_for_broken_utf8(tokenizers, kind, data):
    tokenizer = tokenizers[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.n_vocab - 1)))
    assert "".join(tokenizer.decode_stream(ids)) == tokenizer.decode(ids)


@KINDS
def test_stream_yields_a_character_only_when_all_its_bytes_are_there(tokenizers, kind):
    ids = tokenizers[kind].encode("🧬")
    assert len(ids) == 4
    assert list(tokenizers[kind].decode_stream(ids)) == ["🧬"]


@KINDS
def test_text_cannot_forge_bos_or_eos(tokenizers, kind):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode("<s>a</s> <pad> <unk>")
    assert not {tokenizer.bos_id, tokenizer.eos_id} & set(ids)
    assert tokenizer.decode([tokenizer.bos_id, *ids, tokenizer.eos_id]) == "<s>a</s> <pad> <unk>"


@CHAT_KINDS
@pytest.mark.parametrize("name", SYMBOLS)
def test_a_symbol_is_an_id_that_its_name_does_not_encode_to(tokenizers, kind, name):
    tokenizer = tokenizers[kind]
    symbol = tokenizer.symbol_id(name)
    assert symbol not in tokenizer.encode(f"{name}a {name}\n{name}")
    assert tokenizer.decode(tokenizer.encode(name)) == name
    assert tokenizer.token_bytes(symbol) == b""
    assert tokenizer.decode([symbol, *tokenizer.encode(" x"), symbol]) == " x"
    assert tokenizer.decode([symbol, *tokenizer.encode(" x")], symbols=True) == f"{name} x"


@CHAT_KINDS
def test_symbols_have_the_ids_after_the_special_pieces_in_the_order_of_the_table(tokenizers, kind):
    assert tokenizers[kind].symbol_ids == {name: 4 + n for n, name in enumerate(SYMBOLS)}


@pytest.mark.parametrize("kind", ["byte", "unigram", "bpe"])
def test_a_vocabulary_without_symbols_says_so(tokenizers, kind):
    assert tokenizers[kind].symbol_ids == {}
    with pytest.raises(ValueError, match=r"no symbol <\|user\|>; train one with symbols=chat"):
        tokenizers[kind].symbol_id("<|user|>")


@KINDS
def test_newline_costs_one_token(tokenizers, kind):
    tokenizer = tokenizers[kind]
    assert len(tokenizer.encode("\n")) == 1
    assert tokenizer.encode("\n\n") == 2 * tokenizer.encode("\n")


@KINDS
def test_no_texts_give_no_ids(tokenizers, kind):
    assert tokenizers[kind].encode_many([]) == []
    assert tokenizers[kind].encode("") == []


@KINDS
def test_half_a_surrogate_pair_is_refused_by_its_place(tokenizers, kind):
    for encode in (tokenizers[kind].encode, lambda text: tokenizers[kind].encode_many([text])):
        with pytest.raises(ValueError, match=r"character 2 of the text, U\+D800"):
            encode("ab\ud800")


@KINDS
def test_id_outside_the_vocabulary_is_refused(tokenizers, kind):
    for token in (-1, tokenizers[kind].n_vocab):
        with pytest.raises(ValueError, match="outside the vocabulary"):
            tokenizers[kind].token_bytes(token)


def test_fingerprint_names_the_model(tokenizers):
    again = SentencePieceTokenizer(tokenizers["bpe"].model_file)
    assert again.fingerprint == tokenizers["bpe"].fingerprint
    assert len({tokenizer.fingerprint for tokenizer in tokenizers.values()}) == 5


def test_load_gives_the_tokenizer_that_the_config_names(tokenizers):
    config = TokenizerConfig(kind="sentencepiece", path=tokenizers["bpe"].model_file)
    assert load_tokenizer(config).fingerprint == tokenizers["bpe"].fingerprint
    assert isinstance(load_tokenizer(TokenizerConfig(kind="byte")), ByteTokenizer)


def test_a_model_below_home_may_be_called_by_a_tilde(tokenizers, monkeypatch):
    model = Path(tokenizers["bpe"].model_file)
    monkeypatch.setenv("HOME", str(model.parent))
    loaded = load_tokenizer(TokenizerConfig(path=f"~/{model.name}"))
    assert loaded.fingerprint == tokenizers["bpe"].fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "is empty"), (b"not a model", "not a SentencePiece model")],
)
def test_bad_model_file_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "a.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"tokenizer.path=.*a.model: .*{message}"):
        load_tokenizer(TokenizerConfig(path=str(path)))


def test_model_that_changes_text_is_refused(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(write_text(200)[0].text.split("\n")),
        model_prefix=str(tmp_path / "nfkc"),
        vocab_size=40,
        minloglevel=2,
    )
    with pytest.raises(ValueError, match="the model changes text"):
        SentencePieceTokenizer(tmp_path / "nfkc.model")


def test_config_refuses_what_has_no_effect():
    with pytest.raises(ValueError, match="byte tokenizer reads no file"):
        TokenizerConfig(kind="byte", path="x.model")
    with pytest.raises(ValueError, match="path=None"):
        load_tokenizer(TokenizerConfig())
