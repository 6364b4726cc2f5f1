import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.clean.statistics import TextStatistics
from data_tools.documents import Document, write_documents
from data_tools.value.benchmark import BenchmarkOptions, run
from data_tools.value.subjects import LISTS, SUBJECTS, find_subject, load_lists

LABELS = Path(__file__).with_name("subject_labels.jsonl")  # given by hand to documents of `fetch`


def subject_of(text, language):
    return SUBJECTS[find_subject(TextStatistics(text), language)]


@pytest.mark.parametrize(
    ("subject", "language", "text"),
    [
        (
            "history",
            "de",
            "Im 12. Jahrhundert führte der Kaiser Krieg gegen den König, bis zum Frieden.",
        ),
        ("history", "en", "The emperor lost the war, and in the 12th century his dynasty fell."),
        ("geography", "de", "Die Insel liegt nördlich der Küste, ihre Hauptstadt an einer Bucht."),
        ("geography", "en", "The island lies north of the coast, its capital on a shallow bay."),
        (
            "science",
            "de",
            "Ein Atom besteht aus einem Kern und Elektronen, ein Molekül aus Atomen.",
        ),
        ("science", "en", "An atom has a nucleus and electrons, a molecule is made of atoms."),
        ("technology", "de", "Klicken Sie im Menü auf die Datei und warten Sie auf den Drucker."),
        ("technology", "en", "Click the file in the menu and wait until the printer has started."),
        ("language", "de", "Das Substantiv steht im Dativ, das Verb im Präsens, der Plural fehlt."),
        ("language", "en", "The noun is in the plural, the verb in the past tense, as in Latin."),
        (
            "code",
            "de",
            "Die Funktion hat zwei Argumente und gibt einen Zeiger auf das Array zurück.",
        ),
        ("code", "en", "The function takes a pointer to an array and returns an integer or null."),
        ("other", "de", "Gestern haben wir Kuchen gegessen, und alle waren sehr froh darüber."),
        ("other", "en", "Yesterday we had cake, and everybody was quite happy about it."),
        ("other", "fr", "Le roi et la reine ont perdu la guerre au siècle dernier."),
    ],
)
def test_a_plain_sentence_has_the_subject_of_its_words(subject, language, text):
    assert subject_of(text, language) == subject


def test_an_unknown_language_lets_the_words_decide():
    text = (
        "Die Insel ist nicht groß und liegt nördlich der Küste, wo eine Bucht auf die Stadt zeigt."
    )
    assert subject_of(text, "novel") == "geography"


def test_german_war_is_no_war():
    assert subject_of("Es war schön, es war warm, es war Mai.", "de") == "other"


@given(text=st.text(), language=st.sampled_from(["de", "en", "", "xx"]))
def test_any_text_has_a_subject(text, language):
    assert subject_of(text, language) in SUBJECTS


def test_lists_are_fit_to_be_used():
    for subject, by_language in json.loads(LISTS.read_text(encoding="utf-8")).items():
        assert subject in SUBJECTS
        assert by_language.keys() == {"de", "en"}
        for words in by_language.values():
            assert 60 <= len(words) <= 150
            assert words == sorted(set(words))
            assert all(word == word.lower() and " " not in word for word in words)


@pytest.mark.parametrize("language", ["de", "en"])
def test_every_listed_word_is_found(language):
    lists = load_lists()[language]
    for word, subject in {**lists.prefixes, **lists.words}.items():
        assert lists.find(f"({word.upper() if word.isascii() else word}),") == subject


def test_labels_given_by_hand_can_be_measured_against(tmp_path, capsys):
    rows = [json.loads(line) for line in LABELS.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 60
    assert {row["subject"] for row in rows} == set(SUBJECTS)
    text = "Click the file in the menu and wait until the printer has started."
    documents = [
        Document(id=row["id"], text=text, source=row["source"], language="en", licence="")
        for row in rows
    ]
    write_documents(documents, tmp_path / "all.jsonl")
    options = BenchmarkOptions(
        inputs=(str(tmp_path / "all.jsonl"),), subjects=str(LABELS), n_repeats=1
    )
    measured = run(options)
    n_technology = sum(row["subject"] == "technology" for row in rows)
    assert measured.accuracy == n_technology / len(rows)
    assert "MB/s a core" in capsys.readouterr().out
