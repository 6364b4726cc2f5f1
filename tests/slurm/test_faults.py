"""What a cluster does to a run, on a real SLURM of two nodes: `pytest -m slurm`."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from slurm.jobs import read_jobs
from slurm.queue import JobReport
from tests.slurm.runs import (
    N_STEPS,
    TWO_BY_TWO,
    job_of,
    launch,
    losses_of,
    ranks_of,
    report_of,
    steps_of,
    training_words,
    wait_for_end,
    wait_for_state,
    wait_for_step,
    wait_until,
)

pytestmark = pytest.mark.slurm
NODES = ("node1", "node2")
IMPATIENT = [f"watchdog.{phase}_s=10" for phase in ("data", "forward", "backward", "step", "save")]


def test_a_time_limit_costs_a_run_no_step_and_a_daemon_that_is_restarted_nothing(
    cluster, undisturbed, corpus, tmp_path
):
    run_dir = tmp_path / "run"
    limit = [word for word in TWO_BY_TWO if not word.startswith("time_min")]
    limit += ["time_min=1", "signal_before_s=1"]  # 29 to 59 s from the start: SLURM looks rarely
    quick = "guard.first_save_s=1"  # or a limit of a minute is too short for a second step
    launch(*limit, "--", *training_words(corpus, run_dir), quick)
    job_id = job_of(run_dir)
    wait_for_step(run_dir, 3, attempt=0)
    rank = ranks_of(run_dir)[-1]
    os.kill(rank, signal.SIGSTOP)  # or the run would be through before its time is up
    try:
        for node in NODES:
            cluster.restart_daemon(node)
        wait_until(lambda: is_near(report_of(job_id)), "the limit is near", run_dir)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank, signal.SIGCONT)
    wait_for_state(run_dir, "PENDING")
    cluster.run("scontrol", "update", f"JobId={job_id}", "TimeLimit=20")
    report = wait_for_end(run_dir)
    assert (report.state, report.n_restarts) == ("COMPLETED", 1)
    assert steps_of(run_dir, 0) + steps_of(run_dir, 1) == list(range(1, N_STEPS + 1))
    assert losses_of(run_dir) == losses_of(undisturbed)


def test_a_node_that_hangs_and_a_batch_host_that_dies_cost_a_run_nothing_but_time(
    cluster, undisturbed, corpus, tmp_path
):
    run_dir = tmp_path / "run"
    launch(*TWO_BY_TWO, "--", *training_words(corpus, run_dir), *IMPATIENT)
    wait_for_step(run_dir, 7, attempt=0)
    cluster.freeze("node2")
    try:
        wait_for_restart(run_dir, 1)
    finally:
        cluster.thaw("node2")
    wait_for_step(run_dir, 17, attempt=1)
    cluster.crash("node1")  # where the batch script runs, rank 0, and the store that ranks met at
    try:
        wait_for_restart(run_dir, 2)
    finally:
        cluster.start("node1")
    report = wait_for_end(run_dir)
    assert (report.state, report.n_restarts) == ("COMPLETED", 2)
    assert losses_of(run_dir) == losses_of(undisturbed)
    assert "no progress in" in text_of(run_dir, "stacks/**/rank-*.txt")


def is_near(report: JobReport) -> bool:
    """Tell whether a limit is near, or SLURM has warned of it, which wakes who is stopped."""
    return report.state != "RUNNING" or (report.left_s or 0) <= 12


def wait_for_restart(run_dir: Path, number: int) -> None:
    wait_until(
        lambda: report_of(job_of(run_dir)).n_restarts == number, f"requeue {number}", run_dir
    )


def text_of(folder: Path, pattern: str) -> str:
    return "\n".join(file.read_text() for file in sorted(folder.glob(pattern)))


def test_a_run_that_passes_its_preflight_trains_and_one_that_does_not_never_starts(
    cluster, corpus, tmp_path
):
    asked = ["preflight=true", "nodes=2", "gpus_per_node=0", "time_min=20"]
    good, bad = tmp_path / "good", tmp_path / "bad"
    short = {"n_steps": 2, "micro_batch_rows": 2}
    launch(*asked, "--", *training_words(corpus, good, **short))
    launch(*asked, "--", *training_words(tmp_path / "nothing", bad, **short))

    report = wait_for_end(good)
    assert (report.state, report.n_restarts) == ("COMPLETED", 0), text_of(good, "slurm/*/*_log.*")
    assert len(losses_of(good)) == 2
    assert "ready to train" in text_of(good, "slurm/*/*_0_log.out")

    report = wait_for_end(bad)
    assert (report.state, report.n_restarts) == ("FAILED", 0)
    assert "ExitCode=2:0" in cluster.run("scontrol", "show", "job", read_jobs(bad)[0].job_id)
    assert "mend what failed before you train" in text_of(bad, "slurm/*/*_0_log.out")
    assert not (bad / "config.yaml").exists()  # which a training writes first
