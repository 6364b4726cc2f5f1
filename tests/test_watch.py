import json
import os
import pty
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.config import ConfigError
from helix.training import incidents
from helix.training.metrics import metrics_path
from helix.watch import SPARK_COLUMNS, SPARKS, WatchConfig, draw, duration, look, sparkline, watch
from tests.commands import clean_environment


@pytest.fixture
def run_dir(trained_run, tmp_path):
    """A copy of a run's folder, but for its weights, that a test may change."""
    return shutil.copytree(
        trained_run.run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("*.safetensors")
    )


def test_it_tells_where_a_run_is(run_dir, capsys):
    watch(WatchConfig(run_dir=str(run_dir), once=True))
    told = capsys.readouterr().out
    assert "step 20 of 20" in told
    assert "held out, de" in told
    assert "checkpoint" in told
    assert "does it still run" not in told
    watch(WatchConfig(run_dir=str(run_dir), json=True))
    standing = json.loads(capsys.readouterr().out)
    assert (standing["step"], standing["checkpoint_step"], len(standing["losses"])) == (20, 20, 20)


def test_it_tells_of_skipped_steps_new_starts_and_silence(run_dir):
    lines = metrics_path(run_dir).read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["step"] <= 12]
    again = [json.loads(line) | {"attempt": 1} for line in kept if json.loads(line)["step"] > 8]
    text = "\n".join([*kept, *map(json.dumps, again)]) + "\n"
    metrics_path(run_dir).write_text(text)
    os.utime(metrics_path(run_dir), (0, 0))
    incidents.append(run_dir, {"step": 10, "kind": "loss_spike", "value": 9.0})
    incidents.append(run_dir, {"step": 11, "kind": "rollback", "to_step": 9})
    standing = look(run_dir)
    assert standing.is_silent
    assert standing.events == [
        "step 9: attempt 1",
        "step 10: skipped, loss_spike",
        "step 11: rolled back to 9",
    ]
    assert 0 < standing.left_s < 3600


def test_a_loss_that_is_no_number_is_left_out(run_dir):
    records = [json.loads(line) for line in metrics_path(run_dir).read_text().splitlines()]
    steps = [record for record in records if "speed/step_ms" in record]
    steps[4]["train/loss_nats_per_token"] = None
    scored = [r for r in records if "validation/de/bits_per_byte" in r][-1]
    scored["validation/de/bits_per_byte"] = None
    metrics_path(run_dir).write_text("\n".join(map(json.dumps, records)) + "\n")
    standing = look(run_dir)
    assert len(standing.losses) == 19
    assert list(standing.held_out) == ["en"]
    draw(standing)


def test_it_ends_with_the_run_on_a_real_terminal(run_dir):
    ours, theirs = pty.openpty()
    ended = subprocess.run(
        [sys.executable, "-m", "helix", "watch", f"run_dir={run_dir}"],
        env=clean_environment(TERM="xterm"),
        stdout=theirs,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(theirs)
    told = os.read(ours, 65_536).decode(errors="replace")
    os.close(ours)
    assert ended.returncode == 0, ended.stderr
    assert "held out, de" in told


def test_a_run_that_is_none_or_has_not_begun_is_told(run_dir, tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        look(tmp_path / "nothing")
    metrics_path(run_dir).unlink()
    with pytest.raises(ConfigError, match="has taken no step yet"):
        look(run_dir)


@given(values=st.lists(st.floats(-1e6, 1e6), max_size=200))
def test_a_sparkline_has_one_mark_a_column(values):
    drawn = sparkline(values)
    assert len(drawn) == min(len(values), SPARK_COLUMNS)
    assert set(drawn) <= set(SPARKS)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(5, "5 s"), (65, "1 min 5 s"), (3700, "1 h 1 min"), (200_000, "2 d 7 h")],
)
def test_times_are_told_as_people_say_them(seconds, told):
    assert duration(seconds) == told
