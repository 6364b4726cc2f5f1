import dataclasses
from pathlib import Path

import pytest

import evals.report
from evals.report.compare import OTHER_SET, OTHER_SETTINGS, Entry, measures_table
from evals.report.evidence import Evidence, collect
from evals.report.gather import gather
from evals.report.words import name_apart
from tests.evals.report import made
from tests.evals.report.test_page import Outline


@pytest.fixture(scope="module")
def entries(made_run, tmp_path_factory):
    """The made run, one like it that is a little worse, and one evaluated on another set."""
    runs = [gather(str(made_run))]
    for name, sets in (("alike", "a"), ("other", "b")):
        run_dir = tmp_path_factory.mktemp("runs") / name
        made.write_metrics(run_dir, n_steps=30)
        made.write_evaluations(run_dir, sets=sets, worse=0.1)
        runs.append(gather(str(run_dir)))
    return [Entry(run.name, run, collect(run, "")) for run in runs]


def rows_of(table) -> dict[str, list[str]]:
    return {row[0]: list(row[2:]) for row in table.rows}


def test_measures_of_one_set_stand_side_by_side_and_others_do_not(entries):
    cells = rows_of(measures_table(entries, "bits_per_byte"))["source/web-de/bits_per_byte"]
    assert cells[0].startswith("1.0")
    assert cells[1].startswith("1.1")
    assert cells[1].endswith("\nworse")
    assert cells[2] == OTHER_SET


def test_results_of_another_setting_are_not_in_one_row(entries):
    own = entries[1].evidence.own["recall"]
    other = dataclasses.replace(own, settings={"n_items": 9})
    entry = Entry("other", entries[1].run, Evidence(own={"recall": other}))
    cells = rows_of(measures_table([entries[0], entry], "recall"))["copying/512/accuracy"]
    assert cells[1] == OTHER_SETTINGS


def test_a_difference_within_chance_and_none_are_called_so(entries):
    own = entries[1].evidence.own["recall"]
    turned = {
        name: dataclasses.replace(measure, numerators=measure.numerators[::-1])
        for name, measure in own.measures.items()
    }
    result = dataclasses.replace(own, measures=turned)
    near = Entry("near", entries[1].run, Evidence(own={"recall": result}))
    cells = rows_of(measures_table([*entries, near], "recall"))["copying/4096/accuracy"]
    assert cells[1].endswith("\nthe same")
    assert cells[3].endswith("\nmay be chance")


def test_what_a_run_was_not_measured_on_is_said(entries):
    none = Entry("none", entries[1].run, Evidence())
    cells = rows_of(measures_table([entries[0], none], "recall"))["copying/512/accuracy"]
    assert cells[1] == "not measured"


def test_runs_of_one_name_are_told_apart():
    assert name_apart(["hybrid", "a", "hybrid"]) == ["hybrid (1)", "a", "hybrid (3)"]


def test_the_command_overlays_runs_on_one_page(trained_run, made_run, tmp_path, capsys):
    out = tmp_path / "both.html"
    evals.report.run(["compare", trained_run.run_dir, str(made_run), f"out={out}"])
    outline = Outline(out)
    assert str(out) in capsys.readouterr().out
    assert "Training loss by tokens" in outline.words
    assert "what the text was is not known" in outline.words  # made_run's sources are made up
    assert {p.name for p in (tmp_path / "both_figures").iterdir()} >= {"loss-by-tokens.png"}


def test_runs_without_configs_or_results_are_compared_as_far_as_they_go(tmp_path):
    for name in ("a", "b"):
        made.write_metrics(tmp_path / name, n_steps=30, hurt=False)
    out = tmp_path / "c.html"
    evals.report.run(["compare", str(tmp_path / "a"), str(tmp_path / "b"), f"out={out}"])
    words = Outline(Path(out)).words
    assert "tokenizers differ or are not known" in words
    assert "No config that this helix reads: a, b." in words
