"""What a task makes of how its rank ended: real processes, in place of `helix` a small program."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import clean_environment

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60


@pytest.fixture
def start(tmp_path):
    """Start a task whose rank runs this program; `requeue` is what HELIX_REQUEUE does."""
    tasks = []

    def start(
        program: str, *, requeue: str = "", verb: str = "train", **environment: str
    ) -> subprocess.Popen[str]:
        package = tmp_path / "stub" / "helix"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text("import os, signal, sys, time\n" + program)
        variables = {
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": f"{tmp_path / 'stub'}:{ROOT}",
            "RANK": "0",
            "HELIX_REQUEUE": requeue,
            **environment,
        }
        task = subprocess.Popen(
            [sys.executable, "-m", "slurm.task", verb, f"run_dir={tmp_path}"],
            env=clean_environment() | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        tasks.append(task)
        return task

    yield start
    for task in tasks:
        task.kill()
        task.communicate()


def ends_after_requeue(task: subprocess.Popen[str], mark: Path) -> int:
    """Wait for the requeue; see that the task waits; end it as SLURM does."""
    end = time.monotonic() + TIMEOUT_S
    while not mark.exists():
        assert task.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.5)
    assert task.poll() is None
    task.terminate()
    return task.wait(TIMEOUT_S)


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_rank_that_ended_or_needs_a_person_is_not_requeued(start, tmp_path, status):
    task = start(f"sys.exit({status})", requeue=f"touch {tmp_path / 'requeued'}")
    assert task.wait(TIMEOUT_S) == status
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize("program", ["sys.exit(75)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_failure_worth_another_try_is_requeued(start, tmp_path, program):
    task = start(program, requeue=f"touch {tmp_path / 'requeued'}")
    assert ends_after_requeue(task, tmp_path / "requeued") in (75, 137)


def test_a_third_failure_without_a_new_checkpoint_is_the_last(start, tmp_path):
    mark = tmp_path / "requeued"
    for attempt, is_last in ((0, False), (1, False), (2, True)):
        restarts = {"SLURM_JOB_ID": "42", "SLURM_RESTART_COUNT": str(attempt)}
        task = start("sys.exit(75)", requeue=f"touch {mark}", **restarts)
        if is_last:
            assert task.wait(TIMEOUT_S) == 75
            assert "without a new checkpoint" in task.stderr.read()
            assert not mark.exists()
        else:
            ends_after_requeue(task, mark)
            mark.unlink()
    task = start("sys.exit(0)", SLURM_JOB_ID="42")  # somebody requeued it all the same
    assert task.wait(TIMEOUT_S) == 75
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest").write_text("step-00000010")
    task = start("sys.exit(75)", requeue=f"touch {mark}", SLURM_JOB_ID="42")
    ends_after_requeue(task, mark)
    assert len(json.loads((tmp_path / "slurm" / "failures.json").read_text())["attempts"]) == 1


LISTENS_LATE = """
print("started", flush=True)
time.sleep(1.5)  # as long as imports take
signal.signal(signal.SIGUSR2, lambda number, frame: sys.exit(128 + number))
time.sleep(30)
"""


def test_a_signal_that_comes_before_the_rank_listens_is_not_lost(start, tmp_path):
    task = start(LISTENS_LATE, requeue=f"touch {tmp_path / 'requeued'}")
    assert task.stdout.readline() == "started\n"
    task.send_signal(signal.SIGUSR2)
    assert ends_after_requeue(task, tmp_path / "requeued") == 128 + signal.SIGUSR2


@pytest.mark.parametrize("verb", ["evaluate", "data", "doctor"])
def test_what_does_not_train_ends_when_it_is_told_to_and_passes_usr2_over(start, verb):
    task = start("print('started', flush=True)\ntime.sleep(60)", verb=verb)
    assert task.stdout.readline() == "started\n"
    task.send_signal(signal.SIGUSR2)
    task.send_signal(signal.SIGTERM)
    assert task.wait(TIMEOUT_S) == 128 + signal.SIGTERM


def test_other_ranks_wait_for_rank_0(start, tmp_path):
    task = start("sys.exit(138)", requeue=f"touch {tmp_path / 'requeued'}", RANK="3")
    time.sleep(2)
    assert task.poll() is None
    assert not (tmp_path / "requeued").exists()


def test_a_job_that_nobody_may_requeue_ends_with_its_rank_s_status(start):
    task = start("sys.exit(138)")
    assert task.wait(TIMEOUT_S) == 138
    assert "nobody may requeue" in task.stderr.read()


def test_a_requeue_that_slurm_refuses_ends_the_job(start):
    assert start("sys.exit(138)", requeue="false").wait(TIMEOUT_S) == 138


def test_an_old_result_of_submitit_is_removed(start, tmp_path):
    for name in ("7_2_0_result.pkl", "7_2_1_result.pkl"):
        (tmp_path / name).touch()
    job = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    task = start("", SUBMITIT_FOLDER=str(tmp_path), SLURM_PROCID="0", **job)
    assert task.wait(TIMEOUT_S) == 0
    assert [f.name for f in tmp_path.glob("*.pkl")] == ["7_2_1_result.pkl"]
