"""`helix demo`, end to end, through the same door as a person."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from helix.cli import main
from helix.config import ConfigError
from helix.demo import DemoConfig, describe_text, gather_documents, refuse_other_text, report
from helix.training.metrics import metrics_path
from tests.commands import start_helix
from tests.conftest import TINY_MODEL

TIMEOUT_S = 120
N_STEPS = 12
OF_THE_DEMO = ("tokenizer.kind", "model.n_vocab")  # it makes its own tokenizer
WORDS = {
    "de": "der Fluss fließt langsam über die grünen Wiesen und eine Brücke trägt ihn nicht mehr",
    "en": "the river flows slowly over green fields and one bridge carries it no more than once",
}
# What a demo is killed after: its first note, its tokenizer, its shards, in and between its steps.
MOMENTS = (
    "demo.json",
    "tokenizer/tokenizer.model",
    "data/manifest.json",
    "metrics.jsonl",
    "checkpoints/step-00000004",
    "checkpoints/step-00000008",
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Two files of some 30 kB, in the form text= takes."""
    folder = tmp_path_factory.mktemp("texts")
    drawn = random.Random(0)
    for language, sentence in WORDS.items():
        words = sentence.split()
        paragraphs = [" ".join(drawn.choices(words, k=60)) + "." for _ in range(80)]
        (folder / f"a.{language}.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    return f"{folder}/a.de.txt,{folder}/a.en.txt"


def demo_words(run_dir, text):
    """Write the command of a demo of some seconds."""
    own = {
        "training.n_steps": N_STEPS,
        "training.checkpoint_every_steps": 4,
        "training.validation_rows": 16,
        "optimizer.learning_rate": 0.02,
    }
    kept = [w for w in TINY_MODEL if w.partition("=")[0] not in {*own, *OF_THE_DEMO}]
    return [
        "demo",
        f"run_dir={run_dir}",
        f"text={text}",
        *kept,
        *(f"{key}={value}" for key, value in own.items()),
    ]


@pytest.fixture(scope="module")
def finished(texts, tmp_path_factory):
    """The folder of a demo that nothing disturbed."""
    run_dir = tmp_path_factory.mktemp("finished") / "demo"
    assert main(demo_words(run_dir, texts)) == 0
    return run_dir


def summary_of(run_dir):
    """Read what a demo found out, without the time it took."""
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    assert summary.pop("wall_s") > 0
    return summary


def test_demo_leaves_a_run_with_its_figures(finished):
    for name in ("config.yaml", "metrics.jsonl", "tokenizer/tokenizer.model", "LICENCES.txt"):
        assert (finished / name).stat().st_size > 0, name
    assert (finished / "checkpoints" / "latest").read_text() == f"step-{N_STEPS:08d}"
    assert (finished / "curve.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    summary = summary_of(finished)
    assert summary["n_steps"] == N_STEPS
    assert summary["n_parameters"] > 10_000
    assert list(summary["bits_per_byte"]) == ["a-de", "a-en"]
    for source, scores in summary["bits_per_byte"].items():
        assert 0 < scores["after"] < scores["before"]
        baselines = summary["baselines"][source]
        assert set(baselines) == {"order0", "order1", "xz"}
        assert 0 < baselines["order1"] < baselines["order0"] < 8
        assert 0 < baselines["xz"] < 8
        assert summary["samples"][source]


def test_finished_demo_trains_nothing_more_and_says_the_same(finished, texts, tmp_path, capsys):
    run_dir = shutil.copytree(finished, tmp_path / "demo")
    metrics = metrics_path(run_dir).read_bytes()
    assert main(demo_words(run_dir, texts)) == 0
    assert metrics_path(run_dir).read_bytes() == metrics
    assert summary_of(run_dir) == summary_of(finished)
    assert "bits per byte, held out" in capsys.readouterr().out


def test_demo_of_other_text_is_refused(finished, texts, tmp_path, capsys):
    german = texts.split(",")[0]
    assert main(demo_words(finished, german)) == 2
    told = f"helix: run_dir={finished}: holds a demo of other text; give the same text="
    assert capsys.readouterr().err.startswith(told)
    changed = shutil.copy(german, tmp_path / "a.de.txt")
    with open(changed, "a", encoding="utf-8") as file:
        file.write("mehr")
    assert main(demo_words(finished, texts.replace(german, str(changed)))) == 2
    assert capsys.readouterr().err.startswith(told)


def test_files_of_folders_and_of_one_name_are_told_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.de.txt").write_text(folder)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    options = DemoConfig(text=str(tmp_path / "a"))
    (run_dir / "demo.json").write_text(json.dumps(describe_text(options)))
    refuse_other_text(run_dir, options)
    both = f"{tmp_path}/b/x.de.txt,{tmp_path}/a/x.de.txt"
    with pytest.raises(ConfigError, match="a demo of other text"):
        refuse_other_text(run_dir, DemoConfig(text=both))
    (tmp_path / "a" / "x.de.txt").write_text("mehr")
    with pytest.raises(ConfigError, match="a demo of other text"):
        refuse_other_text(run_dir, options)


def test_names_are_printed_as_they_are_and_commands_hold_together(finished, capsys):
    summary = json.loads((finished / "summary.json").read_text(encoding="utf-8"))
    for figures in ("bits_per_byte", "baselines", "samples"):
        summary[figures] = {"[red]": summary[figures]["a-de"]}
    report(Path("[bold] two"), summary)
    told = capsys.readouterr().out
    assert told.count("[red]") >= 2
    assert "helix generate 'run_dir=[bold] two' prompt=" in told


def test_killed_demo_ends_like_an_undisturbed_one(finished, texts, tmp_path):
    run_dir = tmp_path / "demo"
    drawn = random.Random(1)
    n_killed = 0
    while to_come := [moment for moment in MOMENTS if not (run_dir / moment).exists()]:
        process = start_helix(*demo_words(run_dir, texts))
        while process.poll() is None and not any((run_dir / m).exists() for m in to_come):
            time.sleep(0.001)
        time.sleep(drawn.uniform(0, 0.05))
        process.kill()
        _, stderr = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode in (0, -signal.SIGKILL), stderr
        n_killed += process.returncode < 0
    assert n_killed >= 4  # where one moment follows soon on another, one kill is for both
    assert main(demo_words(run_dir, texts)) == 0
    assert summary_of(run_dir) == summary_of(finished)


def test_demo_without_text_takes_german_and_english(tmp_path):
    documents = gather_documents(DemoConfig(text_bytes=20_000))
    assert {d.source for d in documents} == {"de", "en"}
    assert all(d.licence for d in documents)
    for source in ("de", "en"):
        assert 0 < sum(len(d.text.encode()) for d in documents if d.source == source) <= 20_000


@pytest.mark.parametrize("word", ["model.n_vocab=300", "data.path=x", "tokenizer.kind=byte"])
def test_setting_that_the_demo_makes_itself_is_refused(tmp_path, capsys, word):
    assert main(["demo", f"run_dir={tmp_path}/run", word]) == 2
    assert f"{word.partition('=')[0]}: the demo sets it itself" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
