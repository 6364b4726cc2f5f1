import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.compare import compare, compare_files, compare_measure, judge, print_comparison
from evals.contract import (
    Measure,
    Result,
    Subject,
    bootstrap,
    hash_texts,
    read_results,
    save_results,
    to_json,
)
from helix.config import ConfigError

SUBJECT = Subject(
    name="runs/a",
    checkpoint="c" * 64,
    step=20,
    tokenizer="t" * 64,
    precision="fp32",
    backends={"ssd": "reference"},
    device="cpu",
    n_parameters=7,
)


def result_of(factor=1.0, **changed):
    draw = np.random.default_rng(0)
    numerators = draw.uniform(80, 120, size=50) * factor
    documents = Measure(
        numerators=numerators.tolist(),
        denominators=draw.uniform(40, 60, size=50).tolist(),
        unit="bits/byte",
        is_lower_better=True,
    )
    right = Measure.mean(draw.uniform(size=50) < 0.5, unit="share", is_lower_better=False)
    fields = {
        "evaluation": "bits_per_byte",
        "subject": SUBJECT,
        "settings": {"piece_tokens": 1024},
        "sets": {"de": hash_texts(["a", "b"])},
        "measures": {"source/de/bits_per_byte": documents, "right": right},
    }
    return Result(**fields | changed)


def test_a_result_is_read_as_it_was_written(tmp_path):
    result = result_of()
    save_results([result], tmp_path / "results" / "a.json")
    (again,) = read_results(tmp_path / "results" / "a.json")
    assert to_json([again]) == to_json([result]) == (tmp_path / "results" / "a.json").read_text()
    told = json.loads(to_json([result]))["results"][0]["measures"]["source/de/bits_per_byte"]
    assert told["interval_95"][0] < told["value"] < told["interval_95"][1]


def test_results_of_different_sets_or_settings_are_not_compared():
    with pytest.raises(ConfigError, match=r"de: the sets differ .*cannot be compared"):
        compare(result_of(), result_of(sets={"de": hash_texts(["a", "c"])}))
    with pytest.raises(ConfigError, match=r"en: the sets differ \(not there and "):
        compare(result_of(), result_of(sets={"de": hash_texts(["a", "b"]), "en": "0" * 64}))
    with pytest.raises(ConfigError, match="piece_tokens: 1024 and 7"):
        compare(result_of(), result_of(settings={"piece_tokens": 7}))
    with pytest.raises(ConfigError, match="bits_per_byte and facts are different evaluations"):
        compare(result_of(), result_of(evaluation="facts"))


def test_the_order_and_the_borders_of_texts_are_in_their_hash():
    found = {hash_texts(texts) for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"])}
    assert len(found) == 4


def test_a_difference_is_told_from_chance():
    worse = {found.measure: found for found in compare(result_of(), result_of(1.01))}
    assert worse["source/de/bits_per_byte"].is_clear
    assert not worse["source/de/bits_per_byte"].is_better
    assert worse["source/de/bits_per_byte"].difference > 0
    assert not worse["right"].is_clear
    better = {found.measure: found for found in compare(result_of(1.01), result_of())}
    assert better["source/de/bits_per_byte"].is_better


def test_files_are_compared_evaluation_by_evaluation(tmp_path, capsys):
    one, other = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    save_results([result_of(), result_of(evaluation="facts")], one)
    save_results([result_of(1.02, evaluation="facts")], other)
    assert {found.evaluation for found in compare_files([one, other])} == {"facts"}
    print_comparison([one, other], is_json=True)
    told = {found["measure"]: found for found in json.loads(capsys.readouterr().out)}
    assert told["source/de/bits_per_byte"]["is_clear"] is True
    print_comparison([one, other], is_json=False)
    assert "worse" in capsys.readouterr().out
    save_results([result_of(evaluation="recall")], other)
    with pytest.raises(ConfigError, match=r"a.json has bits_per_byte, facts and .* no evaluation"):
        compare_files([one, other])


@pytest.mark.parametrize("text", ["{}", "[1]", "", '{"format": 2, "results": [{}]}'])
def test_what_holds_no_result_is_refused(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match=r"x.json: no result of an evaluation"):
        read_results(tmp_path / "x.json")
    with pytest.raises(ConfigError, match="give two results"):
        print_comparison([str(tmp_path / "x.json")], is_json=False)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    draw = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        numerators = draw.normal(100, 20, size=60)
        low, high = np.quantile(bootstrap(numerators, np.full(60, 100.0)), (0.025, 0.975))
        hits += low <= 1 <= high
    assert 180 <= hits <= 199


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_a_mean_lies_in_its_interval_and_has_no_item_too_many(values):
    measure = Measure.mean(values, unit="x", is_lower_better=True)
    low, high = measure.interval_95
    assert measure.value == pytest.approx(math.fsum(values) / len(values))
    assert low <= high
    assert min(values) * 0.999 <= low
    assert high <= max(values) * 1.001


def test_items_that_are_no_numbers_are_written_and_read_as_such(tmp_path):
    broken = Measure.mean([1.0, math.nan], unit="x", is_lower_better=True)
    result = dataclasses.replace(result_of(), measures={"broken": broken})
    save_results([result], tmp_path / "a.json")
    (again,) = read_results(tmp_path / "a.json")
    assert math.isnan(again.measures["broken"].numerators[1])
    (found,) = compare(again, result)
    assert not found.is_better


@pytest.mark.parametrize("is_lower_better", [True, False])
def test_a_figure_that_is_no_number_is_neither_better_nor_worse(is_lower_better):
    whole, broken = (
        Measure.mean([first, *[1.0] * 9], unit="x", is_lower_better=is_lower_better)
        for first in (2.0, math.nan)
    )
    for pair in ((whole, broken), (broken, whole)):
        found = compare_measure("facts", "x", *pair)
        assert (found.is_clear, found.is_better, judge(found)) == (False, False, "no number")


def test_few_items_give_no_verdict():
    for n_items in range(1, 12):
        ours, theirs = (
            Measure.mean([value] * n_items, unit="share", is_lower_better=False)
            for value in (0.0, 1.0)
        )
        told = judge(compare_measure("recall", "x", ours, theirs))
        assert told == ("better" if n_items >= 8 else "too few items")


@pytest.mark.parametrize("n_items", [2, 3, 300])
def test_a_share_of_none_or_all_is_not_known_for_certain(n_items):
    none, all_of_them = (
        Measure.mean([value] * n_items, unit="share", is_lower_better=False) for value in (0.0, 1.0)
    )
    low, high = none.interval_95
    assert low == 0
    assert (1 - high) ** n_items == pytest.approx(0.025)  # so seldom are none seen of so many
    assert all_of_them.interval_95 == pytest.approx((1 - high, 1))


def test_a_figure_that_is_no_number_is_written_as_unknown_wherever_it_stands():
    figures = {"by_position": {"0-63": math.nan}, "interval": (math.inf, 1.0), "told": ["x", 2]}
    text = to_json([result_of(figures=figures, settings={"limit": math.nan})])
    told = json.loads(text)["results"][0]
    assert told["figures"] == {
        "by_position": {"0-63": None},
        "interval": [None, 1.0],
        "told": ["x", 2],
    }
    assert told["settings"] == {"limit": None}


def test_a_measure_of_no_items_is_written_as_unknown():
    empty = Measure.mean([], unit="x", is_lower_better=True)
    text = to_json([dataclasses.replace(result_of(), measures={"none": empty})])
    assert json.loads(text)["results"][0]["measures"]["none"]["value"] is None
