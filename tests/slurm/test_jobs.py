"""Jobs on a real SLURM of two nodes: `pytest -m slurm`."""

import contextlib
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helix import cli
from helix.config import load
from helix.presets import PRESETS
from helix.training.trainer import train
from slurm.queue import look_up
from slurm.requeue import requeue
from tests.commands import OF_RANKS
from tests.slurm.runs import (
    N_STEPS,
    TWO_BY_TWO,
    job_of,
    launch,
    losses_of,
    ranks_of,
    report_of,
    training_words,
    wait_for_end,
    wait_for_state,
    wait_for_step,
    wait_until,
)

pytestmark = pytest.mark.slurm
# Sums in another order; see tests/training/test_trainer.py. Later steps drift: 4e-4 at the 39th.
SAME_CURVE = {"rel": 2e-6}
N_ALIKE = 20
ONE = ("gpus_per_node=0", "time_min=20")


def test_two_nodes_train_as_one_process_does(undisturbed, corpus, tmp_path):
    alone = load(training_words(corpus, tmp_path / "alone", micro_batch_rows=4), PRESETS)
    assert train(alone) == 0
    assert_alike(losses_of(tmp_path / "alone"), losses_of(undisturbed))


def assert_alike(here: dict[int, float], there: dict[int, float]) -> None:
    """Compare the losses of runs on different numbers of ranks."""
    assert list(here) == list(there) == list(range(1, N_STEPS + 1))
    for step in range(1, N_ALIKE + 1):
        assert there[step] == pytest.approx(here[step], **SAME_CURVE)


def test_a_run_that_is_signalled_requeued_and_preempted_ends_as_if_undisturbed(
    cluster, undisturbed, corpus, tmp_path
):
    run_dir = tmp_path / "run"
    launch(*TWO_BY_TWO, "--", *training_words(corpus, run_dir))
    job_id = job_of(run_dir)

    wait_for_step(run_dir, 3, attempt=0)
    cluster.run("scancel", "--signal=USR2", job_id)
    wait_for_step(run_dir, 12, attempt=1)
    cluster.run("scontrol", "requeue", job_id)  # kills: what was not saved is done again
    wait_for_step(run_dir, 22, attempt=2)
    urgent = ["-p", "high", "-N2", "--ntasks-per-node=8", "--mem=100", "--wrap", "sleep 1"]
    urgent_id = cluster.run("sbatch", "--parsable", "-o", "/dev/null", *urgent)
    wait_for_state(run_dir, "COMPLETED", job_id=urgent_id)

    report = wait_for_end(run_dir)
    assert (report.state, report.n_restarts) == ("COMPLETED", 3)
    assert losses_of(run_dir) == losses_of(undisturbed)
    assert len(losses_of(run_dir)) == N_STEPS


def test_a_killed_rank_and_a_crashed_node_cost_a_run_nothing_but_time(
    cluster, undisturbed, corpus, tmp_path
):
    run_dir = tmp_path / "run"
    launch(*TWO_BY_TWO, "--", *training_words(corpus, run_dir))
    wait_for_step(run_dir, 7, attempt=0)
    os.kill(ranks_of(run_dir)[-1], signal.SIGKILL)  # as the kernel does when memory is short
    wait_for_step(run_dir, 17, attempt=1)
    cluster.crash("node2")
    wait_until(lambda: report_of(job_of(run_dir)).n_restarts == 2, "the second requeue", run_dir)
    cluster.start("node2")
    report = wait_for_end(run_dir)
    assert (report.state, report.n_restarts) == ("COMPLETED", 2)
    assert losses_of(run_dir) == losses_of(undisturbed)


def test_a_mistake_ends_the_job_at_once_and_what_waits_for_it_is_cancelled(
    cluster, corpus, tmp_path, capsys
):
    run_dir = tmp_path / "run"
    words = [word for word in training_words(corpus, run_dir) if not word.startswith("data.path")]
    launch(*ONE, "--", *words, f"data.path={tmp_path / 'nothing'}")
    job_id = job_of(run_dir)
    launch("data", f"run_dir={run_dir}", f"after={job_id}", *ONE, "--", "stats", f"path={corpus}")
    report = wait_for_end(run_dir, job_id=job_id)
    assert (report.state, report.n_restarts) == ("FAILED", 0)
    assert "ExitCode=2:0" in cluster.run("scontrol", "show", "job", job_id)
    assert wait_for_end(run_dir).state == "CANCELLED"
    assert cli.main(["launch", "evaluate", f"run_dir={run_dir}", *ONE, "--", "throughput"]) == 2
    assert "would never start" in capsys.readouterr().err


def test_a_job_starts_after_the_one_it_waits_for(cluster, corpus, tmp_path, capsys):
    run_dir = tmp_path / "run"
    words = training_words(corpus, run_dir, n_steps=2, micro_batch_rows=4)
    launch(*ONE, "--", *words)
    trained = job_of(run_dir)
    launch("data", f"run_dir={run_dir}", f"after={trained}", *ONE, "--", "stats", f"path={corpus}")
    assert report_of(job_of(run_dir)).state == "PENDING"
    assert wait_for_end(run_dir).state == "COMPLETED"
    assert report_of(trained).state == "COMPLETED"
    capsys.readouterr()
    launch("logs", f"run_dir={run_dir}")
    assert "tokens" in capsys.readouterr().out


def test_a_sweep_is_an_array_with_one_run_folder_each(cluster, corpus, tmp_path, capsys):
    words = training_words(corpus, tmp_path / "sweep", n_steps=2, micro_batch_rows=4)
    launch(*ONE, "sweep.optimizer.learning_rate=[1e-3,3e-3]", "--", *words)
    folders = [tmp_path / "sweep" / f"optimizer.learning_rate={rate}" for rate in ("1e-3", "3e-3")]
    for folder in folders:
        assert wait_for_end(folder).state == "COMPLETED"
    assert losses_of(folders[0])[2] != losses_of(folders[1])[2]
    capsys.readouterr()
    launch("status", f"run_dir={tmp_path / 'sweep'}", "json=true")
    rows = json.loads(capsys.readouterr().out)
    assert [row["job_id"].partition("_")[2] for row in rows] == ["0", "1"]
    assert [row["progress"]["step"] for row in rows] == [2, 2]


def test_a_task_of_an_array_is_requeued_alone(cluster, corpus, tmp_path):
    """The last task has the number of the array, by which SLURM means all of its tasks."""
    words = training_words(corpus, tmp_path / "sweep", n_steps=5000)
    launch(*ONE, "sweep.seed=[0,1]", "--", *words)
    first, last = (tmp_path / "sweep" / f"seed={seed}" for seed in (0, 1))
    wait_for_step(first, 2, attempt=0)
    for run_dir, n_restarts in ((last, [0, 1]), (first, [1, 1])):
        wait_for_step(run_dir, 2, attempt=0)
        cluster.run("scancel", "--signal=USR2", job_of(run_dir))
        wait_for_step(run_dir, 2, attempt=1)
        assert [report_of(job_of(folder)).n_restarts for folder in (first, last)] == n_restarts
    launch("cancel", f"run_dir={tmp_path / 'sweep'}")


def test_a_shell_on_a_terminal_is_no_task_and_what_srun_starts_there_is(cluster, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    code = "import os; from slurm.environment import is_task; print(is_task(os.environ))"
    python = shlex.join([sys.executable, "-c", code])
    shell = shlex.join(["bash", "-c", f"{python}; srun --overlap -n2 {python}"])
    told = cluster.run("script", "-qec", f"srun -c2 --pty {shell}", "/dev/null")
    assert re.findall("True|False", told) == ["False", "True", "True"]


def test_editing_the_checkout_changes_no_queued_job(cluster, corpus, tmp_path, monkeypatch):
    """The job runs from the copy, although it is started in another copy that is broken."""
    run_dir, checkout = tmp_path / "run", tmp_path / "checkout"
    (checkout / "helix").mkdir(parents=True)
    (checkout / "helix" / "__init__.py").write_text("raise SystemExit('edited')")
    monkeypatch.chdir(checkout)
    launch(*ONE, "--", *training_words(corpus, run_dir, n_steps=2, micro_batch_rows=4))
    assert wait_for_end(run_dir).state == "COMPLETED"


def test_a_cancelled_run_is_not_put_back_into_the_queue(cluster, corpus, tmp_path):
    run_dir = tmp_path / "run"
    launch(*ONE, "--", *training_words(corpus, run_dir, n_steps=5000))
    wait_for_step(run_dir, 2, attempt=0)
    launch("cancel", f"run_dir={run_dir}")
    wait_for_state(run_dir, "CANCELLED")
    cluster.run("sleep", "8")  # KillWait, and what tasks do after it
    assert report_of(job_of(run_dir)).state == "CANCELLED"


def test_a_run_can_be_told_to_save_and_end(cluster, corpus, tmp_path):
    run_dir = tmp_path / "run"
    words = training_words(corpus, run_dir, n_steps=5000, checkpoint_every_steps=0)
    launch(*ONE, "--", *words)
    wait_for_step(run_dir, 2, attempt=0)
    launch("cancel", f"run_dir={run_dir}", "save=true")
    report = wait_for_end(run_dir)
    assert (report.state, report.n_restarts) == ("FAILED", 0)
    assert (run_dir / "checkpoints" / "latest").exists()


def test_srun_in_a_script_by_hand_trains_the_same(
    cluster, undisturbed, corpus, tmp_path, monkeypatch
):
    for name in OF_RANKS:  # of this process, which has trained: a shell has none
        monkeypatch.delenv(name, raising=False)
    run_dir = tmp_path / "run"
    root = Path(__file__).parents[2]
    words = shlex.join(training_words(corpus, run_dir))
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/bash\n#SBATCH --nodes=2 --ntasks-per-node=1 --time=10 --requeue\n"
        f"srun --kill-on-bad-exit=1 {sys.executable} -m helix train {words}\n"
    )
    log = tmp_path / "log"
    submit = ["sbatch", "--wait", f"--chdir={root}", f"--output={log}", str(script)]
    done = cluster.ask(*submit, timeout_s=240)
    assert done.returncode == 0, log.read_text()
    assert " 2 ranks " in log.read_text()
    assert_alike(losses_of(run_dir), losses_of(undisturbed))


def test_a_job_whose_signal_a_hung_node_holds_up_can_still_be_requeued_and_cancelled(
    cluster, corpus, tmp_path
):
    run_dir = tmp_path / "run"
    launch(*TWO_BY_TWO, "--", *training_words(corpus, run_dir, n_steps=5000))
    job_id = job_of(run_dir)
    wait_for_step(run_dir, 2, attempt=0)
    with a_signal_held_up(cluster, run_dir):
        assert requeue(job_id) == ""
    wait_for_step(run_dir, 4, attempt=1)
    with a_signal_held_up(cluster, run_dir):
        launch("cancel", f"run_dir={run_dir}")
    wait_for_state(run_dir, "CANCELLED")


@contextlib.contextmanager
def a_signal_held_up(cluster, run_dir: Path) -> Iterator[None]:
    """Send a run's job a signal that does not reach node2, which hangs until the end."""
    cluster.freeze("node2")
    try:
        cluster.run("scancel", "--signal=CONT", job_of(run_dir))
        assert wait_for_state(run_dir, "SIGNALING").left_s
        yield
    finally:
        cluster.thaw("node2")


def test_jobs_that_squeue_has_forgotten_are_asked_of_the_accounts(cluster):
    job_id = cluster.run("sbatch", "--parsable", "-o", "/dev/null", "--wrap", "true")
    assert look_up([job_id])[0].source == "squeue"
    assert look_up(["1"])[0].state == "UNKNOWN"
    assert "sacct" in look_up(["1"])[0].source
