import dataclasses
from dataclasses import dataclass

import pytest

from evals.twins import describe_twins, find_twins, measure_twins


@dataclass(frozen=True)
class Text:
    language: str
    pair: str
    bits: float
    n_bytes: int


TEXTS = [
    Text("de", "a", 300.0, 200),
    Text("en", "a", 200.0, 100),
    Text("de", "b", 100.0, 100),
    Text("en", "b", 100.0, 100),
    Text("de", "c", 9999.0, 1),  # whose translation was not held out
    Text("en", "", 9999.0, 1),
]


def test_only_documents_whose_translation_is_there_are_compared():
    (languages,) = find_twins(TEXTS)
    assert languages == ("de", "en")
    assert [one.pair for one, _ in find_twins(TEXTS)[languages]] == ["a", "b"]


def test_a_gap_is_told_per_byte_and_per_document():
    own = describe_twins(TEXTS)["de/en"]
    assert own["n_pairs"] == 2
    assert own["gap_per_byte"] == pytest.approx((400 / 300) / (300 / 200))
    assert own["gap_per_document"] == pytest.approx(400 / 300)
    assert own["byte_ratio"] == pytest.approx(1.5)
    assert own["gap_interval_95"][0] <= own["gap_per_byte"] <= own["gap_interval_95"][1]
    measures = measure_twins(TEXTS)
    assert measures["twins/de-en/de/bits_per_byte"].value == pytest.approx(400 / 300)
    assert measures["twins/de-en/gap_per_document"].value == pytest.approx(400 / 300)


def test_a_gap_is_the_larger_over_the_smaller_whatever_the_languages_are_called():
    others = {"de": "en", "en": "de"}
    turned = [dataclasses.replace(text, language=others[text.language]) for text in TEXTS]
    one, other = (measure_twins(texts)["twins/de-en/gap_per_document"] for texts in (TEXTS, turned))
    assert one == other
    assert one.value > 1


def test_no_gap_is_told_without_twins():
    assert describe_twins(TEXTS[4:]) == measure_twins(TEXTS[4:]) == {}
