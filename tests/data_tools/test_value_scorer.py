import io
import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.clean.statistics import TextStatistics
from data_tools.documents import Document
from data_tools.value.curve import HIGHEST, LOWEST, Curve
from data_tools.value.features import READ_CHARACTERS, character_tables, find_words, read_features
from data_tools.value.folds import assign_folds
from data_tools.value.judge import judge_texts
from data_tools.value.labels import Example, read_labels, sample_by_domains, sample_by_labels
from data_tools.value.scorer import load_scorer, read_arrays, save_scorer
from data_tools.value.smallest import Smallest
from data_tools.value.training import train_scorer
from helix.data import DataError

GOOD = ["because", "therefore", "explains", "reason", "shows"]
PLAIN = ["table", "window", "green", "walks", "seven", "paper", "under", "stone", "river", "small"]


def planted_examples(n=300):
    """Make texts whose score is ten times the share of their words that are good, and noise."""
    draw = random.Random(7)
    examples = []
    for number in range(n):
        share = draw.random() / 2
        words = [draw.choice(GOOD if draw.random() < share else PLAIN) for _ in range(120)]
        score = 10 * sum(word in GOOD for word in words) / 120 + draw.gauss(0, 0.2)
        source = f"s{number % 6}"
        examples.append(Example(text=" ".join(words), score=score, source=source))
    return examples


@pytest.fixture(scope="module")
def scorer():
    return train_scorer(planted_examples(), penalty=1.0, n_folds=5, described={})


def test_a_planted_signal_is_found(scorer):
    for name in ("held_out_documents", "held_out_sources"):
        found = scorer.training[name]
        assert found["r2"] > 0.9
        assert found["spearman"] > 0.95
        assert found["mean_absolute_error"] < 0.35 * found["baseline_error"]


def test_where_there_is_no_signal_none_is_reported():
    draw = random.Random(3)
    examples = [
        Example(text=example.text, score=draw.random(), source=example.source)
        for example in planted_examples(200)
    ]
    found = train_scorer(examples, penalty=10.0, n_folds=5, described={}).training
    assert found["held_out_documents"]["r2"] < 0.1


def test_training_is_deterministic(scorer):
    again = train_scorer(planted_examples(), penalty=1.0, n_folds=5, described={})
    assert again.weights.tobytes() == scorer.weights.tobytes()
    assert again.intercept == scorer.intercept


texts = st.text(max_size=80) | st.sampled_from(["", "\n\n", "\ud800", "İı ẞ ß", "漢字 かな", "٣٤"])


@given(batch=st.lists(texts, min_size=1, max_size=5), order=st.randoms())
def test_any_text_gets_a_score_whatever_its_neighbours(scorer, batch, order):
    alone = [judge_texts([(text, "xx")], scorer=scorer)[0] for text in batch]
    assert judge_texts([(text, "xx") for text in batch], scorer=scorer) == alone
    assert all(LOWEST <= judgement.step <= HIGHEST for judgement in alone)
    numbers = list(range(len(batch)))
    order.shuffle(numbers)
    shuffled = judge_texts([(batch[number], "xx") for number in numbers], scorer=scorer)
    assert shuffled == [alone[number] for number in numbers]


@given(text=st.text(max_size=200))
def test_features_are_finite_and_fill_their_buckets(text):
    features = read_features(TextStatistics(text))
    assert np.isfinite(features.form).all()
    n_words, n_pairs, n_runs = map(len, features.buckets)
    assert n_pairs == max(n_words - 1, 0)
    assert n_runs == max(len(text) - 3, 0)


@given(start=st.text(max_size=30), end=st.text(max_size=30))
def test_a_word_has_one_hash_wherever_it_stands(start, end):
    word = read_features(TextStatistics("Donaudampfschiff")).buckets[0][0]
    around = read_features(TextStatistics(f"{start} DONAUDAMPFSCHIFF {end}")).buckets[0]
    assert word in around


def test_words_are_runs_of_letters_and_single_symbols():
    text = "Don't: naïve 3,14 (été)"
    kinds, _ = character_tables()
    starts, ends = find_words(kinds[[ord(character) for character in text]])
    words = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    assert words == ["Don", "'", "t", ":", "naïve", "3", ",", "14", "(", "été", ")"]


def test_only_the_beginning_of_a_long_text_is_read(scorer):
    text = "good words and so on, " * (READ_CHARACTERS // 20)
    cut = text[:READ_CHARACTERS]
    assert judge_texts([(text, "en")], scorer=scorer) == judge_texts([(cut, "en")], scorer=scorer)


@given(text=st.text(max_size=100))
def test_a_saved_scorer_scores_to_the_bit_alike(scorer, tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "scorer.json"
    if not path.exists():
        save_scorer(scorer, path)
    features = read_features(TextStatistics(text))
    assert load_scorer(path).predict(features) == scorer.predict(features)


def test_a_scorer_that_was_changed_is_refused(scorer, tmp_path):
    path = tmp_path / "scorer.json"
    save_scorer(scorer, path)
    content, data = path.read_text(), path.with_suffix(".npz").read_bytes()
    for place in (0, len(data) // 2, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        path.with_suffix(".npz").write_bytes(changed)
        with pytest.raises(DataError, match=r"changed or damaged; train it again"):
            load_scorer(path)
    path.with_suffix(".npz").write_bytes(data)
    load_scorer(path)
    for name, wrong in (("intercept", 9.0), ("n_buckets", 7), ("sha256", "0"), ("format", "x")):
        path.write_text(json.dumps(json.loads(content) | {name: wrong}))
        with pytest.raises(DataError, match=r"scorer.json"):
            load_scorer(path)
    for text in ("{", "[]", ""):
        path.write_text(text)
        with pytest.raises(DataError, match=r"scorer.json: is no"):
            load_scorer(path)
    with pytest.raises(DataError, match=r"none.json is missing"):
        load_scorer(tmp_path / "none.json")


def test_nothing_is_unpickled(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.array([{}], dtype=object), form=np.zeros(3))
    with pytest.raises(DataError, match="cannot be read"):
        read_arrays(buffer.getvalue(), tmp_path / "scorer.json")


shared = st.sampled_from(["", "a", "b", "c", "d"])
examples = st.builds(Example, text=shared, score=st.just(1.0), source=shared, pair=shared)


@given(examples=st.lists(examples, max_size=12), n_folds=st.integers(2, 5), by=st.booleans())
def test_folds_share_no_text_no_pair_and_no_source(examples, n_folds, by):
    folds = assign_folds(examples, n_folds=n_folds, by_source=by)
    for one, fold in zip(examples, folds, strict=True):
        for other, other_fold in zip(examples, folds, strict=True):
            is_twin = bool(one.pair) and one.pair == other.pair
            if one.text == other.text or is_twin or (by and one.source == other.source):
                assert fold == other_fold
    backwards = assign_folds(examples[::-1], n_folds=n_folds, by_source=by)
    assert backwards[::-1].tolist() == folds.tolist()


scored = st.tuples(st.integers(LOWEST, HIGHEST), st.integers(1, 10**6))


@given(documents=st.lists(scored, min_size=1), keep=st.floats(0.01, 1))
def test_a_threshold_keeps_the_share_asked_for_and_no_step_more_does(documents, keep):
    curve = Curve()
    for step, n_bytes in documents:
        curve.add(step, n_bytes)
    n_total = sum(n_bytes for _, n_bytes in documents)

    def kept(chosen):
        return sum(n_bytes for step, n_bytes in documents if step >= chosen)

    chosen = curve.choose_step(keep)
    assert kept(chosen) >= keep * n_total > kept(chosen + 1)
    assert curve.kept_bytes()[chosen - LOWEST] == pytest.approx(kept(chosen) / n_total)


@given(keys=st.lists(st.integers(0, 99)), n=st.integers(0, 9))
def test_the_smallest_are_kept_in_order(keys, n):
    smallest = Smallest(n)
    for key in keys:
        smallest.offer(key, key)
    assert smallest.items() == sorted(keys)[:n]
    assert smallest.n_offered == len(keys)


def document(id, source="s", text=None, pair="", domain=""):
    return Document(
        id=id,
        text=text or f"text {id}",
        source=source,
        language="en",
        licence="CC0-1.0",
        pair=pair,
        domain=domain,
    )


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_labels_find_their_documents_by_id_and_by_text(tmp_path):
    rows = [
        {"id": "1", "source": "s", "score": 2},
        {"id": "1", "source": "s", "score": 4.0},
        {"id": "2", "score": 1},
        {"text": "text 3", "score": 5},
        {"text": "not in the corpus", "score": 0, "pair": "q"},
        {"id": "9", "source": "s", "score": 1},
    ]
    labels = read_labels(write_rows(tmp_path / "l.jsonl", rows))
    documents = [document("1"), document("1", "t", "other"), document("2"), document("3", pair="p")]
    sample = sample_by_labels(labels, documents, n_examples=20, path="l.jsonl")
    found = {example.text: (example.score, example.pair) for example in sample.examples}
    assert found == {
        "text 1": (3.0, ""),
        "text 2": (1.0, ""),
        "text 3": (5.0, "p"),
        "not in the corpus": (0.0, "q"),
    }
    assert sample.described["n_labels_without_document"] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "1"}, "line 1: no score"),
        ({"id": "1", "score": True}, "line 1: no score"),
        ({"id": "1", "score": float("nan")}, "line 1: no score"),
        ({"score": 1}, "line 1: names no document"),
        ({"id": 1, "score": 1}, "line 1: id must be a string, not 1"),
        ([], "line 1: no score"),
    ],
)
def test_a_wrong_label_is_refused_by_its_line(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read_labels(write_rows(tmp_path / "l.jsonl", [row]))


def test_labels_that_fit_no_document_or_two_are_refused(tmp_path):
    labels = read_labels(write_rows(tmp_path / "l.jsonl", [{"id": "1", "score": 1}]))
    with pytest.raises(DataError, match="none of its 1 ids is in the inputs"):
        sample_by_labels(labels, [document("2")], n_examples=20, path="l.jsonl")
    both = [document("1", "s"), document("1", "t")]
    with pytest.raises(DataError, match="id '1' is in the sources 's' and 't'; name the"):
        sample_by_labels(labels, both, n_examples=20, path="l.jsonl")


def test_each_domain_gives_as_many_examples():
    documents = [document(f"a{n}", domain="dictionary") for n in range(50)]
    documents += [document(f"b{n}", domain="handbook") for n in range(8)]
    sample = sample_by_domains(documents, n_examples=20)
    assert sample.described["n_by_domain"] == {"dictionary": 10, "handbook": 8}
    assert sample == sample_by_domains(documents[::-1], n_examples=20)
    with pytest.raises(DataError, match="of no two domains with different scores"):
        sample_by_domains(documents[:50], n_examples=20)


def test_too_few_labels_and_labels_that_say_nothing_are_refused():
    with pytest.raises(DataError, match="19 labelled documents: a scorer needs 20"):
        train_scorer(planted_examples(19), penalty=1.0, n_folds=5, described={})
    alike = [Example(text=f"text {n}", score=2.0, source="s") for n in range(30)]
    with pytest.raises(DataError, match="there is nothing to learn"):
        train_scorer(alike, penalty=1.0, n_folds=5, described={})
