import pytest

from data_tools import tokenizer_gates
from data_tools.documents import Document
from data_tools.tokenizer_gates import check_gates, measure, read_limits, require
from data_tools.train_tokenizer import train_tokenizer
from helix.chat import SYMBOLS
from helix.data import DataError
from helix.tokenizer import SentencePieceTokenizer

SENTENCE = "Der Hund läuft über die Straße und bellt den Mond an."


def document(language="de", *, text=SENTENCE, domain="", name="0"):
    return Document(
        id=name, text=text, source="x", language=language, licence="none", domain=domain
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("gates") / "a.model"
    documents = [document(text="\n".join([SENTENCE, "the dog barks at the moon"] * 100))]
    return train_tokenizer(documents, path, n_vocab=350, symbols="chat")


def names_of_failed(gates):
    return [gate.name for gate in gates if not gate.has_passed]


def test_what_a_text_costs_is_counted(tokenizer):
    texts = [SENTENCE, "", "🧬 the dog\n", SENTENCE]
    documents = [document(text=text, name=str(n)) for n, text in enumerate(texts)]
    use = measure(tokenizer, documents).language("de")
    assert use.n_documents == 4
    assert use.n_tokens == sum(len(tokenizer.encode(text)) for text in texts)
    assert use.n_words == 11 + 3 + 11
    assert use.n_bytes == sum(len(text.encode()) for text in texts)
    assert use.tokens_per_100_words == 100 * use.n_tokens / 25
    assert use.tokens_per_byte == use.n_tokens / use.n_bytes


def test_the_share_of_used_ids_counts_each_once(tokenizer):
    ids = {*tokenizer.encode(SENTENCE)}
    measured = measure(tokenizer, [document(), document(name="1")])
    assert measured.used_share == len(ids) / tokenizer.n_vocab


def test_languages_are_the_sum_of_their_domains(tokenizer):
    documents = [document(domain="help"), document(domain="quotes"), document("en", domain="help")]
    measured = measure(tokenizer, iter(documents))
    assert [(use.language, use.n_documents) for use in measured.languages] == [("de", 2), ("en", 1)]
    assert measured.language("de", ["help"]).n_documents == 1
    assert measured.language("fr").n_documents == 0


def test_a_good_tokenizer_passes(tokenizer):
    documents = [document(name=str(number)) for number in range(100)]
    gates = check_gates(
        tokenizer,
        measure(tokenizer, documents),
        limits={"de": 1000, "fr": 10},
        languages={"de"},
        texts=[SENTENCE],
    )
    assert names_of_failed(gates) == []
    assert len(gates) == 6
    require(gates, "x")


def test_a_language_over_its_limit_or_with_little_text_fails(tokenizer):
    measured = measure(tokenizer, [document(name=str(number)) for number in range(100)])
    limits = {"de": 5, "en": 500}
    gates = check_gates(tokenizer, measured, limits=limits, languages={"de", "en"})
    assert names_of_failed(gates) == [
        "de: at most 5 tokens per 100 words",
        "en: at most 500 tokens per 100 words",
    ]
    with pytest.raises(DataError, match=r"x: failed 2 of 7 gates: .*only 0 words held out"):
        require(gates, "x")


class Breaks(SentencePieceTokenizer):
    """A tokenizer with one fault."""

    def __init__(self, model_file, fault):
        self.fault = fault
        super().__init__(model_file)

    def check(self):
        pass

    def encode(self, text):
        ids = super().encode(text)
        if self.fault == "forges" and "<|user|>" in text:
            return [self.symbol_id("<|user|>"), *ids]
        if self.fault == "strips":
            return super().encode(text.strip())
        return ids

    def encode_many(self, texts):
        return [
            self.encode(text) + [self.processor.unk_id()] * (self.fault == "unknown")
            for text in texts
        ]


@pytest.mark.parametrize(
    ("fault", "failed"),
    [
        ("unknown", ["no unknown piece", "every text comes back byte for byte"]),
        ("strips", ["every text comes back byte for byte", "chats come back byte for byte"]),
        ("forges", ["text that spells a symbol stays text", "chats come back byte for byte"]),
    ],
)
def test_a_fault_is_found(tokenizer, monkeypatch, fault, failed):
    broken = Breaks(tokenizer.model_file, fault)
    if fault == "forges":  # what a user-defined symbol would do
        monkeypatch.setattr(tokenizer_gates, "BATTERY", ("<|user|><|end|>",))
    assert names_of_failed(check_gates(broken, measure(broken, [document()]), limits={})) == failed


def test_missing_symbols_are_named(tokenizer):
    incomplete = SentencePieceTokenizer(tokenizer.model_file)
    incomplete.symbol_ids = {"<|user|>": 5}
    gates = check_gates(incomplete, measure(incomplete, []), limits={})
    found = {gate.name: gate.found for gate in gates if not gate.has_passed}
    assert "<|system|>" in found[f"{len(SYMBOLS)} reserved symbols"]
    assert "no symbol" in found["chats come back byte for byte"]


def test_limits_are_read_and_default_to_what_a_large_vocabulary_can_do():
    assert read_limits("de:150, en:135.5", 100) == {"de": 150.0, "en": 135.5}
    assert read_limits("", 200_000) == {}
    assert read_limits(None, 31_999) == {}
    assert read_limits(None, 128_000) == {"de": 150.0, "en": 135.0}
    for wrong in ("de", "de:", "de:x", "de:0", ":3", "de:nan"):
        with pytest.raises(ValueError, match=f"limits={wrong}: write"):
            read_limits(wrong, 100)
