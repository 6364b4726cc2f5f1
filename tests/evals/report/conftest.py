"""Runs to report on: a trained one, one with all kinds of results, one with hostile names."""

import json
import shutil
from pathlib import Path

import pytest

from evals.contract import Measure, Result, save_results
from evals.report.evidence import collect
from evals.report.gather import gather
from evals.report.options import ReportOptions
from evals.report.sheet import report
from helix.training.metrics import metrics_path
from tests.evals.report import made

HOSTILE = '</svg></style><script>alert(1)</script>$x_$ "{{ 7*7 }}" & \x07 ümläut 😀'


@pytest.fixture(scope="session")
def made_run(trained_run, tmp_path_factory) -> Path:
    """A run's folder with events, checkpoints' digests, and a result of each kind."""
    run_dir = tmp_path_factory.mktemp("made") / "hybrid"
    shutil.copytree(trained_run.run_dir, run_dir, ignore=shutil.ignore_patterns("*.safetensors"))
    made.write_metrics(run_dir)
    made.write_evaluations(run_dir)
    return run_dir


@pytest.fixture(scope="session")
def made_page(made_run) -> Path:
    return report(ReportOptions(run_dir=str(made_run)))[0]


@pytest.fixture(scope="session")
def gathered(made_run):
    run = gather(str(made_run))
    return run, collect(run, "")


@pytest.fixture(scope="session")
def hostile_page(tmp_path_factory) -> Path:
    """A page of a run whose every name means harm."""
    run_dir = tmp_path_factory.mktemp("hostile") / "<img src=x onerror=alert(1)>"
    made.write_metrics(run_dir, n_steps=60)
    line = {"step": 60, "attempt": 1, "tokens": 9, f"validation/{HOSTILE}/bits_per_byte": 2.5}
    with metrics_path(run_dir).open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    (run_dir / "config.yaml").write_text(f"preset: '{HOSTILE}'\n")
    (run_dir / "deepspeed.json").write_text(HOSTILE)
    save_results([hostile_result(run_dir)], run_dir / "evaluations" / "suite.json")
    return report(ReportOptions(run_dir=str(run_dir)))[0]


def hostile_result(run_dir: Path) -> Result:
    measure = Measure.mean([0.0, 1.0], unit=HOSTILE, is_lower_better=True)
    share = Measure.mean([0.0, 1.0], unit="share", is_lower_better=True)
    return Result(
        evaluation="decoding",
        subject=made.subject(str(run_dir)),
        settings={},
        sets={HOSTILE: "a" * 64},
        measures={f"{HOSTILE}/what": measure, f"de/{HOSTILE}/{HOSTILE}": share},
        figures={"samples": [{"prompt": HOSTILE, "text": HOSTILE, "language": HOSTILE}]},
        warnings=[HOSTILE],
    )
