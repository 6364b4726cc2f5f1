"""Real runs of two ranks that hang, lose a rank, are signalled or run out of time."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from helix.training import checkpoint
from helix.training.metrics import read_records
from tests.commands import clean_environment
from tests.conftest import TINY_MODEL

TIMEOUT_S = 240
LIMIT_S = 10  # of every phase; the machine may be busy
WATCHED = [f"watchdog.{p}_s={LIMIT_S}" for p in ("data", "forward", "backward", "step", "validate")]


@pytest.fixture
def requeue(tmp_path):
    """A requeue command that notes each call, and a function that tells the calls."""
    script, calls = tmp_path / "requeue.sh", tmp_path / "calls"
    script.write_text(f'#!/bin/sh\necho "$@" >> "{calls}"\n')
    return f"sh {script} 42", lambda: calls.read_text().split() if calls.exists() else []


def start(corpus, run_dir, *words, fault="-1:0:exit", n_ranks=2, **variables):
    """Start `helix train` on some ranks, one of which may have a fault."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {word.partition("=")[0] for word in words}
    kept = [word for word in TINY_MODEL if word.partition("=")[0] not in given]
    settings = [f"run_dir={run_dir}", f"data.path={corpus}", "training.micro_batch_rows=2"]
    kept = [word for word in kept if not word.startswith("training.micro_batch_rows")]
    command = [sys.executable, "-m", "tests.training.stuck", fault, "train"]
    return [
        subprocess.Popen(
            [*command, *settings, *kept, *words],
            env=clean_environment(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(n_ranks),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
                **variables,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(n_ranks)
    ]


def end(ranks):
    """Wait for all ranks; give their statuses and what they wrote on stderr."""
    told = [rank.communicate(timeout=TIMEOUT_S)[1] for rank in ranks]
    return [rank.returncode for rank in ranks], told


@pytest.mark.ranks
@pytest.mark.parametrize("phase", ["data", "forward", "backward", "step", "save", "validate"])
def test_rank_that_hangs_ends_the_run_with_all_stacks(corpus, tmp_path, requeue, phase):
    command, calls = requeue
    run_dir = tmp_path / "run"
    words = (*WATCHED, f"watchdog.save_s={LIMIT_S}", "training.validate_every_steps=2")
    ranks = start(corpus, run_dir, *words, fault=f"1:2:{phase}", HELIX_REQUEUE=command)
    statuses, told = end(ranks)
    assert statuses == [75, 75], told
    (line,) = [line for text in told for line in text.splitlines() if "helix: hang:" in line]
    assert f"rank 1 in {phase} of step" in line
    if phase in ("data", "forward"):  # in the others all ranks wait in the same phase
        assert "suspect rank 1;" in line
    folder = run_dir / "stacks" / "attempt-0"
    for rank in range(2):
        stacks = (folder / f"rank-{rank}.txt").read_text()
        assert "take_step" in stacks
        assert ("in fail" in stacks) == (rank == 1)
    assert calls() == ["42"]


@pytest.mark.ranks
@pytest.mark.parametrize("fault", ["1:2:exit", "1:0:exit_early"])
def test_lost_rank_ends_the_run_with_one_line_and_a_status_to_try_again(
    corpus, tmp_path, requeue, fault
):
    command, calls = requeue
    ranks = start(corpus, tmp_path / "run", fault=fault, HELIX_REQUEUE=command)
    statuses, told = end(ranks)
    assert statuses == [75, 9], told
    assert "Traceback" not in told[0]
    (line,) = [line for line in told[0].splitlines() if line.startswith("helix: rank")]
    assert "lost another rank in" in line
    assert (tmp_path / "run" / "stacks" / "attempt-0" / "rank-0.error.txt").exists()
    assert calls() == ["42"]


@pytest.mark.ranks
@pytest.mark.parametrize("fault", ["1:2:error", "1:0:error_early"])
def test_rank_that_fails_for_a_reason_of_its_own_is_not_tried_again(
    corpus, tmp_path, requeue, fault
):
    command, calls = requeue
    ranks = start(corpus, tmp_path / "run", fault=fault, HELIX_REQUEUE=command)
    statuses, told = end(ranks)
    assert statuses == [2, 2], told
    assert "helix: rank-1 failed: lost.json" in told[0]
    assert "helix: lost.json" in told[1]
    assert calls() == []


@pytest.mark.ranks
def test_signal_to_one_rank_saves_on_all_then_rank_0_requeues(corpus, tmp_path, requeue):
    command, calls = requeue
    run_dir = tmp_path / "run"
    words = ("training.n_steps=9999", "schedule.n_warmup_steps=2", "guard.requeue_wait_s=60")
    ranks = start(corpus, run_dir, *words, HELIX_REQUEUE=command)
    wait_for(lambda: len(read_records(run_dir)) > 3, ranks)
    os.kill(ranks[1].pid, signal.SIGUSR1)
    wait_for(calls, ranks)
    time.sleep(1)
    assert [rank.poll() for rank in ranks] == [None, None]  # they wait to be ended
    for rank in ranks:
        rank.terminate()
    statuses, told = end(ranks)
    assert statuses == [-signal.SIGTERM] * 2, told
    assert "helix: requeued: " in told[0]
    assert calls() == ["42"]
    assert checkpoint.newest(run_dir) is not None


def test_run_stops_and_saves_before_its_deadline(corpus, tmp_path, requeue):
    command, calls = requeue
    run_dir = tmp_path / "run"
    variables = {"HELIX_DEADLINE_UNIX_S": str(time.time() + 15), "HELIX_REQUEUE": command}
    words = ("training.n_steps=9999", "guard.requeue_wait_s=0.1")
    statuses, told = end(start(corpus, run_dir, *words, n_ranks=1, **variables))
    assert statuses == [128 + signal.SIGALRM], told
    assert "stopped by the deadline and saved" in told[0]
    assert checkpoint.newest(run_dir) is not None
    assert calls() == ["42"]


@pytest.mark.ranks
def test_rank_that_stays_slow_is_named(corpus, tmp_path):
    words = ("watchdog.compare_every_steps=2", "watchdog.slow_comparisons=2")
    ranks = start(corpus, tmp_path / "run", *words, fault="1:1:slow")
    statuses, told = end(ranks)
    assert statuses == [0, 0], told
    assert "helix: rank 1 is slow" in told[0]
    slowest = [r.get("speed/slowest_rank") for r in read_records(tmp_path / "run")]
    assert slowest.count(1.0) == 3


def wait_for(is_so, ranks):
    deadline = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert all(rank.poll() is None for rank in ranks), end(ranks)
        assert time.monotonic() < deadline
        time.sleep(0.1)
