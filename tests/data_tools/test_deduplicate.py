import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools import deduplicate as verb
from data_tools.batches import show_documents
from data_tools.deduplicate import DeduplicateOptions, deduplicate, run
from data_tools.documents import Document, read_documents, write_documents
from data_tools.minhash import band_keys, choose_bands
from data_tools.shingles import hash_shingles, hash_words, jaccard, split_words
from helix.data import DataError

pytest.importorskip("rensa")
NGRAM_WORDS = 2
WORDS = [f"w{number}" for number in range(40)]


def document_of(text, *, source="a", name="0"):
    return Document(id=name, text=text, source=source, language="de", licence="CC0-1.0")


def documents_of(texts, *, source="a"):
    return [
        document_of(text, source=source, name=f"{source}{i:03d}") for i, text in enumerate(texts)
    ]


def deduplicated(folder, documents, **options):
    write_documents(documents, folder / "in.jsonl")
    chosen = {"ngram_words": NGRAM_WORDS, "n_workers": 1, "replace": True} | options
    report = deduplicate(
        DeduplicateOptions(inputs=(str(folder / "in.jsonl"),), out=str(folder / "out"), **chosen)
    )
    return report, read_documents(sorted((folder / "out").glob("*.jsonl")))


def files_of(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def read_lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def similarity(left, right):
    a, b = ({tuple(w[i : i + 2]) for i in range(max(1, len(w) - 1))} for w in (left, right))
    return len(a & b) / len(a | b)


@st.composite
def corpora(draw):
    """Texts of some words, many of them changed copies of another."""
    texts = []
    for _ in range(draw(st.integers(1, 10))):
        words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30))
        if texts and draw(st.booleans()):
            words = list(draw(st.sampled_from(texts)))
            for _ in range(draw(st.integers(0, 6))):
                words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(WORDS))
        texts.append(words)
    return texts


CORPORA = corpora()
few = settings(max_examples=25, deadline=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("deduplicate")


@few
@given(texts=st.lists(st.sampled_from(["eins", "Eins", "zwei!", "zwei", "drei", " "]), min_size=1))
def test_no_text_survives_twice_and_every_text_survives_once(folder, texts):
    texts = [text + "." for text in texts]
    _, kept = deduplicated(folder, documents_of(texts), near=False)
    assert [document.text for document in kept] == list(dict.fromkeys(texts))


def test_exact_words_disregard_case_spacing_and_punctuation(folder):
    texts = ["Guten Tag, Welt", "guten  tag welt", "GUTEN TAG: WELT!", "guter Tag Welt"]
    _, kept = deduplicated(folder, documents_of(texts), near=False, exact="words")
    assert {document.text for document in kept} == {"GUTEN TAG: WELT!", "guter Tag Welt"}


@few
@given(texts=CORPORA)
def test_what_is_like_no_other_document_always_survives(folder, texts):
    lines = [" ".join(words) for words in texts]
    _, kept = deduplicated(folder, documents_of(lines), threshold=0.6)
    survivors = {document.text for document in kept}
    for i, words in enumerate(texts):
        others = (other for j, other in enumerate(texts) if j != i)
        if all(similarity(words, other) < 0.6 for other in others):
            assert lines[i] in survivors


@few
@given(texts=CORPORA)
def test_whatever_is_removed_has_a_document_as_alike_as_stated_among_those_that_stay(folder, texts):
    documents = documents_of(" ".join(words) for words in texts)
    _, kept = deduplicated(folder, documents, threshold=0.6)
    by_id = {document.id: document.text.split() for document in documents}
    kept_ids = {document.id for document in kept}
    pairs = [json.loads(line) for line in read_lines(folder / "out/pairs.ndjson")]
    assert {pair["removed"] for pair in pairs} == by_id.keys() - kept_ids
    for pair in pairs:
        assert pair["kept"] in kept_ids
        if pair["kind"] == "near":
            true = similarity(by_id[pair["removed"]], by_id[pair["kept"]])
            assert pair["similarity"] == pytest.approx(true, abs=1e-4)
            assert true >= 0.6


def test_nearly_all_pairs_above_the_threshold_are_found(folder):
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(150):
        words = [f"v{number}" for number in rng.integers(0, 10**6, 60)]
        texts += [words, [*words[:30], "anders", *words[31:]]]  # 57 of 61 pairs: 0.93
    report, kept = deduplicated(
        folder, documents_of(" ".join(words) for words in texts), threshold=0.8
    )
    assert len(kept) <= 152
    assert report.recall_at_threshold >= 0.98


@few
@given(texts=CORPORA, data=st.data())
def test_the_order_within_a_source_does_not_matter(folder, texts, data):
    lines = [" ".join(words) for words in texts]
    documents = documents_of(lines[::2], source="a") + documents_of(lines[1::2], source="b")
    _, kept = deduplicated(folder, documents, threshold=0.6, prefer="a")
    shuffled = data.draw(st.permutations(documents))
    _, again = deduplicated(folder, shuffled, threshold=0.6, prefer="a")
    assert {document.id for document in kept} == {document.id for document in again}


def test_the_input_order_is_kept(folder):
    texts = [f"Text {number} so und so" * (1 + number % 5) for number in (5, 3, 9, 1, 7)]
    _, kept = deduplicated(folder, documents_of(texts), near=False)
    assert [document.text for document in kept] == texts


def test_of_a_group_the_preferred_source_stays_then_the_longest(folder):
    text = "eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf"
    documents = [
        document_of(text, source="a", name="short"),
        document_of(text + "!!!", source="a", name="long"),
        document_of(text.upper(), source="b", name="other"),
    ]
    _, kept = deduplicated(folder, documents)
    assert [document.id for document in kept] == ["long"]
    report, kept = deduplicated(folder, documents, prefer="b")
    assert [document.id for document in kept] == ["other"]
    counts = {entry.source: entry for entry in report.sources}
    assert (counts["a"].n_near_across, counts["b"].n_kept_documents) == (2, 1)


def test_a_chain_of_likenesses_keeps_both_of_its_ends(folder):
    chain = [f"w{number}" for number in range(28)]
    texts = [[*chain[:24], "x"], chain[2:26], [*chain[4:], "y"]]
    documents = [
        document_of(" ".join(words), source=source, name=source)
        for words, source in zip(texts, "acb", strict=True)
    ]
    _, kept = deduplicated(folder, documents, threshold=0.75, prefer="a,b,c")
    assert similarity(texts[0], texts[2]) < 0.75
    assert [document.id for document in kept] == ["a", "b"]


def test_the_number_of_workers_does_not_change_a_byte(folder, monkeypatch):
    monkeypatch.setattr("data_tools.batches.BATCH_BYTES", 200)
    texts = [" ".join(WORDS[i % 7 : i % 11 + 9]) + f" {i % 13}" for i in range(60)]
    deduplicated(folder, documents_of(texts), n_workers=1)
    alone = files_of(folder / "out")
    deduplicated(folder, documents_of(texts), n_workers=2)
    assert files_of(folder / "out") == alone


@settings(max_examples=10, deadline=None)
@given(stop=st.integers(0, 39))  # both readings of 20 documents
def test_stopped_anywhere_and_run_again_it_writes_the_same_bytes(folder, stop):
    documents = documents_of(" ".join(WORDS[i % 7 : i % 11 + 9]) for i in range(20))
    deduplicated(folder, documents)
    whole = files_of(folder / "out")
    n_left = stop

    def count_down(documents):
        nonlocal n_left
        for document in documents:
            n_left -= 1
            if n_left < 0:
                raise KeyboardInterrupt
            yield document

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "show_documents", lambda *given: count_down(show_documents(*given)))
        with pytest.raises(KeyboardInterrupt):
            deduplicated(folder, documents)
    assert files_of(folder / "out") == whole
    deduplicated(folder, documents)
    assert files_of(folder / "out") == whole
    assert not list(folder.glob(".out.*"))


def test_a_result_that_is_there_is_not_overwritten_unasked(folder):
    deduplicated(folder, documents_of(["eins"]))
    with pytest.raises(DataError, match="replace=true"):
        deduplicated(folder, documents_of(["zwei"]), replace=False)


def test_an_unknown_preferred_source_is_refused_with_those_there_are(folder):
    with pytest.raises(DataError, match="no source 'c'; there are: a"):
        deduplicated(folder, documents_of(["eins"]), prefer="c")


def test_a_source_that_cannot_name_a_file_is_refused_and_harms_nothing(folder):
    deduplicated(folder, documents_of(["eins"]))
    before = files_of(folder / "out")
    with pytest.raises(DataError, match="cannot name a file"):
        deduplicated(folder, [document_of("zwei", source="../a")])
    assert files_of(folder / "out") == before


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["eins", "anderes"], "changed while it was read"),
        (["eins"], "became shorter while it was read"),
        (["eins", "zwei", "drei"], "became longer while it was read"),
    ],
)
def test_texts_that_changed_while_they_were_read_are_refused(folder, monkeypatch, texts, message):
    fill = verb.fill_index

    def fill_and_change(index, options, bands):
        fill(index, options, bands)
        write_documents(documents_of(texts), folder / "in.jsonl")

    monkeypatch.setattr(verb, "fill_index", fill_and_change)
    with pytest.raises(DataError, match=message):
        deduplicated(folder, documents_of(["eins", "zwei"]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threshold", 0.0),
        ("threshold", 1.5),
        ("n_permutations", 0),
        ("ngram_words", 0),
        ("memory_gib", 0.0),
        ("n_workers", -1),
    ],
)
def test_an_option_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        DeduplicateOptions(inputs=("a.txt",), out="out", **{name: value})


def test_json_is_for_machines(folder, capsys):
    write_documents(documents_of(["eins zwei", "eins zwei", "drei"]), folder / "in.jsonl")
    options = DeduplicateOptions(
        inputs=(str(folder / "in.jsonl"),), out=str(folder / "json"), json=True
    )
    run(options)
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((folder / "json/report.json").read_text())
    assert printed["sources"][0]["n_exact_within"] == 1
    run(replace(options, json=False, out=str(folder / "table")))
    assert "MB/s" in capsys.readouterr().out


@given(texts=CORPORA)
def test_similarity_is_that_of_the_sets_of_word_runs(texts):
    for left, right in combinations(texts, 2):
        sets = [hash_shingles(hash_words(words), 2) for words in (left, right)]
        assert jaccard(*sets) == pytest.approx(similarity(left, right))


@given(text=st.text(), spaces=st.text(st.sampled_from(" \n\t,.!"), min_size=1))
def test_words_disregard_case_and_spacing(text, spaces):
    words = split_words(text)
    assert split_words(spaces.join(words)) == words
    assert split_words(spaces.join(words).upper()) == split_words(" ".join(words).upper())


def test_a_sharp_s_is_the_same_word_in_capitals():
    assert split_words("Straße_ und Maß\u00ad e") == split_words("STRASSE UND MASS E")


@given(n=st.integers(16, 300), threshold=st.floats(0.3, 1))
def test_bands_fit_the_signature_and_keep_the_recall(n, threshold):
    try:
        bands = choose_bands(n, threshold)
    except ValueError:
        assert 1 - (1 - threshold) ** n < 0.98
        return
    assert bands.n_bands * bands.n_rows <= n
    assert bands.recall >= 0.98


def test_the_buckets_of_a_text_depend_on_no_other():
    sets = [hash_shingles(hash_words(WORDS[i : i + 9]), 5) for i in range(9)]
    bands = choose_bands(128, 0.8)
    whole = band_keys(sets, bands)
    assert (whole[4:5] == band_keys(sets[4:5], bands)).all()
