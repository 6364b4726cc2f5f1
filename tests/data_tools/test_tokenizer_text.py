from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from data_tools.documents import Document
from data_tools.tokenizer_text import (
    SENTENCE_CHARACTERS,
    HeldOut,
    hashed_place,
    sample_lines,
    training_lines,
)


def document(number, *, text="abcd", language="de", **other):
    return Document(
        id=str(number), text=text, source="x", language=language, licence="none", **other
    )


@given(
    lengths=st.lists(st.integers(1, 20), max_size=60),
    share=st.floats(0.01, 0.99),
    max_bytes=st.integers(1, 100),
)
def test_each_document_is_trained_on_or_held_out_within_the_bound(lengths, share, max_bytes):
    documents = [
        document(number, text="x" * length, language="de" if number % 3 else "en")
        for number, length in enumerate(lengths)
    ]
    held_out = HeldOut(share, max_bytes=max_bytes)
    trained = list(held_out.part(documents))
    assert Counter(d.id for d in trained + held_out.documents) == Counter(d.id for d in documents)
    for language in ("de", "en"):
        kept = [d for d in held_out.documents if d.language == language]
        assert len(kept) <= 1 or sum(len(d.text) for d in kept) <= max_bytes
        places = sorted(hashed_place(d) for d in documents if d.language == language)
        assert sorted(map(hashed_place, kept)) == places[: len(kept)]


@given(lengths=st.lists(st.integers(1, 20), max_size=60), max_bytes=st.integers(1, 100))
def test_which_documents_are_held_out_does_not_depend_on_their_order(lengths, max_bytes):
    documents = [document(number, text="x" * length) for number, length in enumerate(lengths)]
    names = []
    for given_documents in (documents, documents[::-1]):
        held_out = HeldOut(0.5, max_bytes=max_bytes)
        list(held_out.part(given_documents))
        names.append({d.id for d in held_out.documents})
    assert names[0] == names[1]


def test_about_the_share_is_held_out():
    held_out = HeldOut(0.1)
    n_trained = len(list(held_out.part(document(number) for number in range(5000))))
    assert 400 < 5000 - n_trained < 600


def test_documents_for_validation_are_never_trained_on():
    documents = [document(number, split="validation") for number in range(100)]
    held_out = HeldOut(0.01, max_bytes=40)
    assert list(held_out.part(documents)) == []
    assert len(held_out.documents) == 10


def test_twins_go_the_same_way():
    held_out = HeldOut(0.5)
    twins = [
        document(f"{language}{number}", language=language, pair=f"twin {number}")
        for number in range(50)
        for language in ("de", "en")
    ]
    trained = {d.pair for d in held_out.part(twins)}
    assert trained
    assert not trained & {d.pair for d in held_out.documents}
    assert held_out.languages == {"de", "en"}


def test_lines_are_cut_before_sentencepiece_would_skip_them_and_empty_ones_are_left_out():
    text = "a\x00b\r\n  \n\n" + "x" * (SENTENCE_CHARACTERS + 1) + "\tc"
    lines = list(training_lines([replace(document(0), text=text)]))
    assert lines == ["ab", "x" * SENTENCE_CHARACTERS, "x\tc"]


@given(n_all=st.integers(0, 50), n_lines=st.integers(1, 60) | st.none())
def test_a_sample_holds_lines_that_were_there_each_once(n_all, n_lines):
    lines = [str(number) for number in range(n_all)]
    sample = sample_lines(iter(lines), n_lines)
    assert len(sample) == (n_all if n_lines is None else min(n_all, n_lines))
    assert len({*sample}) == len(sample)
    assert {*sample} <= {*lines}
    assert sample == sample_lines(iter(lines), n_lines)


def test_every_line_has_the_same_chance():
    sample = sample_lines((str(number) for number in range(100_000)), 10_000)
    thirds = Counter(int(line) * 3 // 100_000 for line in sample)
    assert all(3100 < n < 3570 for n in thirds.values())  # five standard deviations
