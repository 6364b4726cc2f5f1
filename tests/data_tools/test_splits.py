import dataclasses
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.documents import Document
from data_tools.splits import split_documents
from helix.data import DataError

SPLITS = ("", "train", "validation")
SOURCES = ("de", "en", "de-b")


def document(number, *, source="de", pair="", split="", text=None):
    return Document(
        id=f"{source}-{number}",
        text=f"text {number} of {source}" if text is None else text,
        source=source,
        language=source[:2],
        licence="CC0-1.0",
        pair=pair,
        split=split,
    )


def placed(documents, *, fraction=0.2, seed=0):
    parts = split_documents(documents, fraction=fraction, seed=seed)
    return {own.id: split for (split, _), part in parts.items() for own in part}


def test_what_a_document_says_stands():
    documents = [document(n, split="validation" if n % 3 else "train") for n in range(30)]
    splits = placed(documents, fraction=0.0)
    assert splits == {own.id: own.split for own in documents}


def test_a_translation_follows_the_text_that_was_decided():
    twins = [
        [document(n, source=source, pair=f"pair {n}") for source in ("de", "en")] for n in range(40)
    ]
    held_out = dataclasses.replace(twins[7][1], split="validation")
    everything = [own for pair in twins for own in pair if own.id != held_out.id] + [held_out]
    splits = placed(everything, fraction=0.0)
    assert [name for name, split in splits.items() if split == "validation"] == ["de-7", "en-7"]


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(SOURCES), st.integers(0, 9), st.sampled_from(SPLITS)),
        min_size=8,
        max_size=40,
    ),
    seed=st.integers(0, 99),
)
def test_no_pair_is_torn_and_no_decision_overruled(rows, seed):
    decided: dict[int, str] = {}
    documents = []
    for number, (source, pair, split) in enumerate(rows):
        split = split and decided.setdefault(pair, split)  # a pair is decided one way
        documents.append(document(number, source=source, pair=f"pair {pair}", split=split))
    documents += [document(n, source=source) for n in (100, 101) for source in SOURCES]
    splits = placed(documents, seed=seed)
    assert len(splits) == len(documents)
    by_pair = defaultdict(set)
    for own in documents:
        if own.pair:
            by_pair[own.pair].add(splits[own.id])
        if own.split:
            assert splits[own.id] == own.split
    assert all(len(sides) == 1 for sides in by_pair.values())


@given(n_pairs=st.integers(2, 30), fraction=st.floats(0.01, 0.9), seed=st.integers(0, 99))
def test_sources_of_pairs_alone_have_both_splits(n_pairs, fraction, seed):
    documents = [
        document(n, source=source, pair=f"pair {n}")
        for n in range(n_pairs)
        for source in ("de", "en")
    ]
    parts = split_documents(documents, fraction=fraction, seed=seed)
    assert len(parts) == 4


def test_a_pair_on_both_sides_is_refused():
    documents = [
        document(1, pair="a", split="train"),
        document(2, source="en", pair="a", split="validation"),
    ]
    with pytest.raises(DataError, match="document 1: one of its pair is of the split train"):
        placed(documents)


@pytest.mark.parametrize("marks", [("", "validation"), ("train", "validation")])
def test_a_text_that_any_copy_holds_out_is_not_trained_on(marks):
    for order in (marks, marks[::-1]):
        copies = [document(n, text="a copy", split=split) for n, split in enumerate(order)]
        others = [document(n, split="train") for n in (5, 6)]
        assert placed(copies + others, fraction=0.0)["de-0"] == "validation"


def test_what_was_decided_reaches_copies_of_a_translation():
    documents = [
        document(1, source="en", text="copied"),
        document(2, source="en", pair="a", text="copied"),
        document(3, pair="a", text="translated"),
        document(4, text="translated", split="validation"),
        *(document(n, source=source) for n in (5, 6) for source in ("de", "en")),
    ]
    splits = placed(documents, fraction=0.0)
    assert [name for name, split in splits.items() if split == "validation"] == ["en-1", "de-3"]


def test_a_split_that_there_is_not_is_refused():
    with pytest.raises(
        DataError, match=r"document de-1 of de: split='val'; give train, validation"
    ):
        placed([document(1, split="val")])


def test_one_undecided_document_goes_where_its_source_lacks_one():
    assert placed([document(1), document(2, split="train")])["de-1"] == "validation"
    assert placed([document(1), document(2, split="validation")])["de-1"] == "train"
