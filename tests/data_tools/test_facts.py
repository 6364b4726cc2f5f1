import dataclasses
import os
from collections import Counter
from pathlib import Path

import pytest

from data_tools.facts import build, tables
from data_tools.facts.build import build_facts, handwritten_facts, items_of
from data_tools.facts.check import check_items
from data_tools.facts.choose import choose_by_group, is_given_away
from data_tools.facts.fact import Candidate, Wording
from data_tools.facts.years import STEPS
from data_tools.options import main
from evals.items import CATEGORIES, HARDNESSES, LANGUAGES, SHIPPED, read_items, write_items
from helix.data import DataError


@pytest.fixture(scope="module")
def shipped():
    return read_items(SHIPPED)


def test_the_shipped_items_keep_every_rule(shipped):
    assert check_items(shipped) == []


def test_there_are_at_least_400_items_a_language_and_60_of_each_category(shipped):
    counts = Counter((item.language, item.category) for item in shipped)
    assert set(counts) == {(lang, category) for lang in LANGUAGES for category in CATEGORIES}
    assert min(counts.values()) >= 60
    assert min(sum(counts[lang, c] for c in CATEGORIES) for lang in LANGUAGES) >= 400


def test_the_tables_still_give_the_shipped_items_that_need_no_package(shipped):
    by_key = {(item.language, item.id): item for item in shipped}
    made = items_of(handwritten_facts())
    assert len(made) > 1000
    for item in made:
        assert by_key[item.language, item.id] == item


def test_writing_the_shipped_items_again_gives_the_same_bytes(shipped, tmp_path):
    write_items(shipped, tmp_path)
    for language in LANGUAGES:
        name = f"facts.{language}.jsonl"
        assert (tmp_path / name).read_bytes() == (SHIPPED / name).read_bytes()


def test_twins_have_the_same_wrong_answers_in_the_same_places(shipped):
    years = [item for item in shipped if item.relation in ("year", "atomic_number", "symbol")]
    twins = {}
    for item in years:
        twins.setdefault(item.id, []).append((item.answer, item.distractors))
    assert all(one == other for one, other in twins.values())


def test_wrong_years_are_as_near_as_their_hardness_says(shipped):
    for item in shipped:
        if item.relation == "year":
            for hardness, (low, high) in STEPS.items():
                for year in item.distractors[hardness]:
                    assert low <= abs(int(year) - int(item.answer)) <= high


def test_right_years_are_not_to_be_told_by_their_place_among_the_wrong_ones(shipped):
    """The right one is the lowest, the middle or the highest of the hard ones by turns."""
    places = Counter(
        sorted([item.answer, *item.distractors["hard"]]).index(item.answer)
        for item in shipped
        if item.relation == "year" and item.language == "en"
    )
    assert set(places) == {0, 1, 2, 3}
    assert max(places.values()) < sum(places.values()) / 2


def one_with(shipped, relation, **fields):
    item = next(i for i in shipped if i.relation == relation and i.language == "de")
    return dataclasses.replace(item, **fields)


@pytest.mark.parametrize(
    ("relation", "fields", "finding"),
    [
        ("capital", {"prompt": "Die Hauptstadt von Schweiz ist"}, "lacks an article in 'von Schw"),
        ("capital", {"prompt": "Die Hauptstadt von X ist "}, "stray spaces"),
        ("capital", {"prompt": "die Hauptstadt von X ist"}, "begins in lower case"),
        ("capital", {"prompt": "Paris ist", "answer": "Paris"}, "has its answer in the prompt"),
        ("capital", {"prompt": "Tunesien hat", "answer": "Tunis"}, "answer's beginning away"),
        ("capital", {"category": "sport"}, "unknown category sport"),
        ("capital", {"distractors": {h: ["A", "Paris"] for h in HARDNESSES}}, "3 times"),
        ("capital", {"distractors": {h: ["klein", "A"] for h in HARDNESSES}}, "capitals differ"),
        ("capital", {"distractors": {"hard": ["A", "B"]}}, "has the hardnesses hard"),
        (
            "capital",
            {"distractors": {h: [h.title()] for h in HARDNESSES}},
            "has 1 hard distractors",
        ),
        ("year", {"answer": "843"}, "the digits are not as many"),
    ],
)
def test_a_broken_item_is_found(shipped, relation, fields, finding):
    broken = one_with(shipped, relation, **fields)
    rest = [item for item in shipped if (item.language, item.id) != ("de", broken.id)]
    findings = check_items([*rest, broken])
    assert any(finding in said and broken.id in said for said in findings), findings


def test_a_set_with_gaps_or_repetitions_is_found(shipped):
    missing = [item for item in shipped if item.id != "capital/FR" or item.language != "de"]
    assert check_items(missing) == ["capital/FR: has no twin"]
    assert any("2 times" in said for said in check_items([*shipped, shipped[0]]))
    few = [item for item in shipped if item.category != "history"]
    assert "de history: 0 items, fewer than 60" in check_items(few)


POOL = [
    Candidate(Wording(f"{group}{n}", f"{group}{n}"), group)
    for group in ("a/x", "a/y", "b/x")
    for n in range(5)
]


def test_distractors_come_from_the_group_then_from_around_it_then_from_elsewhere():
    chosen = choose_by_group("id", POOL[0], POOL)
    groups = {hardness: {w.de[:3] for w in own} for hardness, own in chosen.items()}
    assert groups == {"hard": {"a/x"}, "medium": {"a/y"}, "easy": {"b/x"}}
    assert all(POOL[0].wording not in own and len(own) == 3 for own in chosen.values())
    again = choose_by_group("id", POOL[0], POOL[::-1])
    assert again == chosen


def test_what_would_be_right_too_is_no_distractor():
    barred = {"a/x1", "a/x2"}
    chosen = choose_by_group("id", POOL[0], POOL, also_true=barred)
    assert {w.en for w in chosen["hard"]} == {"a/x3", "a/x4"}
    with pytest.raises(DataError, match=r"id: 1 hard distractors; write more rows"):
        choose_by_group("id", POOL[0], POOL, also_true=barred | {"a/x3"})


@pytest.mark.parametrize(
    ("prompt", "answer", "is_given"),
    [
        ("Die Hauptstadt von Tunesien ist", "Tunis", True),
        ("The river on which London lies is called the", "Thames", False),
        ("Die Stadt Córdoba liegt in", "Cordobesien", True),
        ("The capital of Oman is", "Muscat", False),
    ],
)
def test_a_prompt_that_gives_its_answer_away_is_told(prompt, answer, is_given):
    assert is_given_away(prompt, answer) is is_given


def test_a_table_with_a_missing_field_is_named_with_its_line(tmp_path, monkeypatch):
    (tmp_path / "years.tsv").write_text("id\tyear\tde\nx\t1\n")
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    with pytest.raises(DataError, match=r"years.tsv, line 2: 2 fields, the head has 3"):
        tables.read_table("years", ("id",))
    with pytest.raises(DataError, match="the head has no column en"):
        tables.read_table("years", ("id", "en"))


def test_a_broken_rule_writes_nothing(tmp_path, monkeypatch):
    for name in ("country_facts", "element_facts"):
        monkeypatch.setattr(build, name, lambda packages: [])
    monkeypatch.setattr(build, "handwritten_facts", lambda: handwritten_facts()[:9])
    with pytest.raises(DataError, match=r"items break a rule; the first: "):
        build_facts(tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_readme_tells_how_many_items_there_are(shipped):
    text = Path(SHIPPED, "README.md").read_text(encoding="utf-8")
    counts = Counter(item.category for item in shipped if item.language == "de")
    for category in CATEGORIES:
        assert f"| {category} | " in text
        row = next(line for line in text.splitlines() if line.startswith(f"| {category} |"))
        assert row.endswith(f"| {counts[category]} |")
    assert f"{sum(counts.values()):,}".replace(",", " ") + " statements" in text


@pytest.mark.skipif("HELIX_TEST_DOWNLOADS" not in os.environ, reason="HELIX_TEST_DOWNLOADS unset")
def test_the_packages_give_the_shipped_files_byte_for_byte(tmp_path, capsys):
    main(["facts", f"out={tmp_path / 'out'}", f"cache={tmp_path / 'cache'}"])
    assert "geography" in capsys.readouterr().out
    for language in LANGUAGES:
        name = f"facts.{language}.jsonl"
        assert (tmp_path / "out" / name).read_bytes() == (SHIPPED / name).read_bytes()
