"""The command `helix evaluate` around its evaluations: what it refuses, and when."""

import json

import pytest

from evals.contract import Result, read_results, save_results
from evals.evaluation import Evaluation, publish
from evals.options import Options
from helix.cli import main
from helix.config import ConfigError
from tests.evals.test_compare import SUBJECT

RESULT = Result(evaluation="facts", subject=SUBJECT, settings={}, sets={}, measures={})


def refusal(words, capsys):
    capsys.readouterr()
    assert main(["evaluate", *words]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("words", [["facts"], ["tasks=facts"], ["throughput"]])
@pytest.mark.parametrize("place", ["file/x.json", "folder"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_opened(
    tmp_path, capsys, words, place
):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    run = [] if words == ["throughput"] else ["run_dir=/nowhere"]
    told = refusal([*words, *run, f"out={tmp_path}/{place}"], capsys)
    assert told.startswith(f"helix: out={tmp_path}/{place}: ")


def test_figures_that_cannot_be_saved_are_shown(tmp_path, capsys):
    evaluation = Evaluation("facts", Options, lambda *_: RESULT, lambda *_: None)
    (tmp_path / "file").touch()
    options = Options(run_dir="x", out=f"{tmp_path}/file/x.json", json=True)
    with pytest.raises(ConfigError, match="cannot be written"):
        publish([(evaluation, RESULT)], options)
    assert json.loads(capsys.readouterr().out)["results"][0]["evaluation"] == "facts"


@pytest.mark.parametrize("word", ["run_dir=b", "step=3", "precision=bf16", "out=x.json"])
def test_what_evaluations_share_is_not_set_for_one_of_them(capsys, word):
    told = refusal(["run_dir=/nowhere", "tasks=facts", f"facts.{word}"], capsys)
    name = word.partition("=")[0]
    assert f"facts.{name}: the evaluations share one {name}; give {name}=..." in told


def test_text_of_no_run_is_refused_by_its_own_name(trained_run, capsys):
    told = refusal(["bits_per_byte", f"run_dir={trained_run.run_dir}", "text_of=nosuch"], capsys)
    assert told == "helix: text_of=nosuch: holds no run (no config.yaml)\n"


def test_comparison_reads_its_options_as_every_command_does(tmp_path, capsys):
    path = str(tmp_path / "k=v.json")
    save_results([RESULT], path)
    assert read_results(path) == [RESULT]
    assert main(["evaluate", "compare", path, path, "json=false"]) == 0
    assert main(["evaluate", "compare", path, path, "json=true"]) == 0
    assert capsys.readouterr().out == "[]\n"
    assert "jason: no such setting; did you mean json?" in refusal(
        ["compare", path, path, "jason=true"], capsys
    )
