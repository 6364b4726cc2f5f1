"""The launcher, without a SLURM: scripts, options, mistakes, jobs on this machine."""

import json
import os
import shutil
import subprocess
from dataclasses import replace

import pytest

from helix import cli
from helix.config import ConfigError
from helix.training.metrics import read_records
from slurm import jobs, launch, plan, requeue
from slurm.environment import is_task
from slurm.jobs import JobRecord, add_jobs, progress_of
from slurm.queue import JobReport, SlurmError
from tests.commands import start_helix
from tests.slurm.runs import losses_of, training_words
from tests.slurm.test_environment import TASK


@pytest.fixture
def without_slurm(tmp_path, monkeypatch):
    """Let no program be found, those of SLURM included."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def script_of(capsys, *words: str) -> list[str]:
    cut = words.index("--")
    assert cli.main(["launch", *words[:cut], "dry_run=true", *words[cut:]]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_dry_run_prints_the_script_and_writes_nothing(corpus, tmp_path, capsys):
    words = ["nodes=4", "gpus_per_node=8", "cpus_per_gpu=12", "partition=big", "time_min=600"]
    lines = script_of(
        capsys, *words, "--", *training_words(corpus, tmp_path / "run", batch_rows=32)
    )
    options = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert {
        "nodes=4",
        "gpus-per-node=8",
        "ntasks-per-node=8",
        "cpus-per-task=12",
        "partition=big",
        "time=600",
        "requeue",
        "open-mode=append",
        "signal=USR2@300",
    } <= set(options)
    assert not any(option.startswith("wckey") for option in options)
    (srun,) = [line for line in lines if line.startswith("srun")]
    assert "--kill-on-bad-exit=1" in srun
    assert "--cpus-per-task=12" in srun
    assert f"export PYTHONPATH={tmp_path}/run/slurm/0000-train/code" in "\n".join(lines)
    assert not (tmp_path / "run").exists()


def test_a_preflight_comes_first_with_the_runs_own_config_on_all_its_tasks(
    corpus, tmp_path, capsys
):
    words = training_words(corpus, tmp_path / "run", micro_batch_rows=4)
    lines = script_of(capsys, "preflight=true", "cpus_per_gpu=12", "--", *words)
    checks, training = [line for line in lines if " srun " in f" {line} "]
    folder = tmp_path / "run" / "slurm" / "0000-train"
    assert f"doctor preflight config={folder}/config-0.yaml run_dir={tmp_path}/run" in checks
    assert checks.endswith(" || exit 2")
    assert "HELIX_MAX_RESTARTS=0 " in checks
    for line in (checks, training):
        assert "--kill-on-bad-exit=1" in line
        assert "--cpus-per-task=12" in line
        assert f"--output {folder}/%j_%t_log.out" in line
    assert subprocess.run(["bash", "-n"], input="\n".join(lines), text=True).returncode == 0


def test_a_sweep_is_an_array(corpus, tmp_path, capsys):
    sweep = ["sweep.seed=[0,1,2]", "sweep.optimizer.learning_rate=[1e-3,3e-3]", "parallelism=2"]
    words = training_words(corpus, tmp_path / "run", micro_batch_rows=4)
    assert "#SBATCH --array=0-5%2" in script_of(capsys, *sweep, "--", *words)


def test_an_evaluation_waits_for_jobs_and_dies_with_them(tmp_path, capsys):
    words = ["evaluate", f"run_dir={tmp_path}", "after=7:9", "--", "throughput"]
    words += [f"config={tmp_path}/config.yaml"]  # which those jobs write
    lines = script_of(capsys, *words)
    assert "#SBATCH --dependency=afterok:7:9" in lines
    assert "#SBATCH --kill-on-invalid-dep=yes" in lines


def test_an_evaluation_waits_for_the_last_training_of_its_run(tmp_path, capsys):
    for number, job_id in enumerate(("3", "5_0", "5_1", "6")):
        verb, folder = "evaluate" if number == 3 else "train", f"000{min(number, 1)}"
        add_jobs(tmp_path, [record(tmp_path, job_id, verb, folder=folder)])
    lines = script_of(capsys, "evaluate", f"run_dir={tmp_path}", "--", "throughput")
    assert "#SBATCH --dependency=afterok:5_0:5_1" in lines


def record(run_dir, job_id, verb="train", *, folder=None):
    return JobRecord(
        job_id=job_id,
        verb=verb,
        words=[],
        run_dir=str(run_dir),
        folder=str(folder or run_dir),
        submitted_unix_s=0.0,
    )


@pytest.mark.parametrize(("checkpoints", "steps"), [("all", ["18", "20"]), ("5,10", ["5", "10"])])
def test_each_checkpoint_is_an_evaluation_of_its_own(trained_run, tmp_path, checkpoints, steps):
    run_dir = shutil.copytree(trained_run.run_dir, tmp_path / "run")
    (run_dir / "checkpoints" / "step-00000099").mkdir()  # a torn one is none
    options = plan.LaunchConfig(run_dir=str(run_dir), checkpoints=checkpoints)
    works = plan.plan_command("evaluate", options, ["facts", "run_dir={run_dir}", "step={step}"])
    told = [["evaluate", "facts", f"run_dir={run_dir}", f"step={step}"] for step in steps]
    assert [work.words for work in works] == told


@pytest.mark.parametrize(("checkpoints", "word"), [("all", "step=best"), ("", "step={step}")])
def test_checkpoints_and_their_place_go_together(tmp_path, checkpoints, word):
    options = plan.LaunchConfig(run_dir=str(tmp_path), checkpoints=checkpoints)
    with pytest.raises(ConfigError, match=r"goes together with step={step}"):
        plan.plan_command("evaluate", options, ["facts", "run_dir={run_dir}", word])


QUEUED = JobReport(job_id="7", state="PENDING")


def test_a_run_that_waits_or_trains_is_not_queued_again(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plan, "look_up", lambda ids: [replace(QUEUED, job_id=i) for i in ids])
    run_dir = tmp_path / "run"
    words = training_words(corpus, run_dir, micro_batch_rows=4)
    add_jobs(run_dir, [record(run_dir, "7"), record(run_dir, "8", "data")])
    assert cli.main(["launch", "--", *words]) == 2
    assert "job 7 trains it already, and is PENDING" in capsys.readouterr().err
    assert not list(run_dir.glob("slurm/*-train"))
    assert script_of(capsys, "--", *words)


def test_a_save_is_asked_of_trainings_past_their_preflight_alone(tmp_path, monkeypatch, capsys):
    for job_id, passed in (("5", "passed"), ("6", "checking")):
        (tmp_path / passed).mkdir()
        add_jobs(
            tmp_path,
            [replace(record(tmp_path, job_id), has_preflight=True, folder=str(tmp_path / passed))],
        )
    (tmp_path / "passed" / "preflight.passed").touch()
    add_jobs(
        tmp_path, [record(tmp_path, "7"), record(tmp_path, "8", "data"), record(tmp_path, "9")]
    )
    asked = []
    states = {"9": "PENDING"}
    monkeypatch.setattr(
        jobs,
        "look_up",
        lambda ids: [replace(QUEUED, job_id=i, state=states.get(i, "RUNNING")) for i in ids],
    )
    monkeypatch.setattr(jobs, "ask", lambda *command: asked.append(command))
    assert cli.main(["launch", "cancel", f"run_dir={tmp_path}", "save=true", "json=true"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"cancelled": ["6", "8", "9"], "saving": ["5", "7"]}
    assert asked[-1] == ("scancel", "6", "8", "9")


def test_a_busy_controller_is_asked_again_and_a_refusal_is_not(monkeypatch):
    answers = [
        "Socket timed out on send/recv operation",
        "Unable to contact slurm controller (connect failure)",
        "",
        "Requested operation is presently disabled",
    ]

    def ask(*command):
        if problem := answers.pop(0):
            raise SlurmError(problem)

    running = JobReport(job_id="7", state="RUNNING")
    monkeypatch.setattr(requeue, "PAUSES_S", (0,) * 4)
    monkeypatch.setattr(requeue, "report_of", lambda job_id: running)
    monkeypatch.setattr(requeue, "ask", ask)
    assert requeue.requeue("7") == ""
    assert "presently disabled" in requeue.requeue("7")
    assert not answers


def test_options_of_sbatch_are_text(corpus, tmp_path, capsys):
    words = training_words(corpus, tmp_path / "run", micro_batch_rows=4)
    own = "{begin: 16:00, time-min: 1:30:00, account: 012, deadline: 2030-01-01, exclusive: true}"
    lines = script_of(capsys, f"sbatch={own}", "sbatch.gres-flags=012", "--", *words)
    told = {line.removeprefix("#SBATCH --") for line in lines}
    assert {"begin=16:00", "time-min=1:30:00", "account=012", "deadline=2030-01-01"} <= told
    assert {"exclusive", "gres-flags=012"} <= told


def test_a_run_here_is_no_task_of_the_step_around_it(tmp_path, monkeypatch):
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch.local, "run", lambda *words, **options: is_task(os.environ))
    works = [plan.Work(words=["train"], run_dir=tmp_path)]
    assert is_task(os.environ)
    assert not launch.run_here(plan.LaunchConfig(local=True), works, tmp_path)


@pytest.mark.parametrize(
    ("options", "words", "told"),
    [
        (["nodes=0"], [], "nodes=0: give at least 1"),
        (["node=2"], [], "did you mean nodes?"),
        (["nodes=two"], [], "nodes"),
        (["gpus_per_node=8", "tasks_per_node=4"], [], "a task is started for each"),
        (["time_min=5", "signal_before_s=300"], [], "must be less than time_min"),
        (["sweep.seed=3"], [], "give a list"),
        (["sweep.seed=[1,1]"], [], "2 runs of the sweep would share it"),
        (["sbatch={requeue: false}"], [], "sbatch.requeue=false: give one value"),
        (["sbatch={mail-type: [END]}"], [], "sbatch.mail-type=['END']: give one value"),
        (["sbatch=[x]"], [], "give values by name"),
        (["sweep.sede=[1]"], [], "sede: no such setting; did you mean seed?"),
        (["checkpoints=all"], [], "is for evaluations"),
        (["preflight=true", "sweep.seed=[0,1]"], [], "is for one run, not for a sweep"),
        ([], ["training.n_step=3"], "did you mean n_steps?"),
        (["gpus_per_node=4"], ["training.batch_rows=6", "training.micro_batch_rows=1"], "4 ranks"),
        ([], ["training.deepspeed=zero9"], "training.deepspeed=zero9"),
        ([], ["model.fp8=mlp", "training.deepspeed=zero3"], "use zero2"),
        ([], ["training.n_steps=2030-01-01"], "training.n_steps=2030-01-01: "),
        ([], ["[=3"], "[=3: "),
    ],
)
def test_a_mistake_is_told_before_anything_is_queued(options, words, told, tmp_path, capsys):
    command = ["launch", *options, "--", f"run_dir={tmp_path / 'run'}", *words]
    assert cli.main(command) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["logz"], "did you mean logs?"),
        (["preset=hybrid_tiny"], "stand after --"),
        (["data", "preflight=true", "run_dir=x", "--", "stats"], "is for training"),
        (["data", "run_dir=x", "--", "stat", "path=x"], "did you mean stats?"),
        (["data", "run_dir=x", "--", "stats", "paths=x"], "did you mean path?"),
        (["evaluate", "run_dir=x", "--", "fact", "run_dir=x"], "did you mean facts?"),
        (["evaluate", "run_dir=x", "--", "facts"], "name the run to evaluate"),
        (["evaluate", "run_dir=x", "--", "run_dir=x", "facts.n_item=3"], "did you mean n_items?"),
        (["evaluate", "run_dir=x", "--", "throughput", "section=step"], "no such setting"),
    ],
)
def test_words_that_belong_nowhere_are_told(words, told, capsys):
    assert cli.main(["launch", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_run_folder_must_be_named(capsys):
    assert cli.main(["launch", "--", "preset=hybrid_tiny"]) == 2
    assert "run_dir=" in capsys.readouterr().err


@pytest.mark.usefixtures("without_slurm")
@pytest.mark.parametrize("verb", ["status", "cancel"])
def test_without_slurm_a_person_is_told_where_to_go(verb, tmp_path, capsys):
    add_jobs(tmp_path, [record(tmp_path, "3")])
    assert cli.main(["launch", verb, f"run_dir={tmp_path}"]) == 2
    assert "squeue: not found; run this where SLURM is installed" in capsys.readouterr().err


@pytest.mark.usefixtures("without_slurm")
def test_a_job_that_could_not_be_queued_leaves_nothing_behind(corpus, tmp_path, capsys):
    words = training_words(corpus, tmp_path / "run", micro_batch_rows=4)
    assert cli.main(["launch", "--", *words]) == 2
    assert "sbatch: not found" in capsys.readouterr().err
    assert not list(tmp_path.glob("run/slurm/*"))


def test_a_job_that_submits_hands_on_the_site_and_not_itself(monkeypatch):
    for name in ("SLURM_CONF", "SLURM_JOB_ID", "SBATCH_ACCOUNT", "RANK", "SUBMITIT_EXECUTOR"):
        monkeypatch.setenv(name, "x")
    with launch.outside_of_jobs():
        assert "SLURM_CONF" in os.environ
        assert "SBATCH_ACCOUNT" in os.environ
        assert not {"SLURM_JOB_ID", "RANK", "SUBMITIT_EXECUTOR"} & set(os.environ)
    assert os.environ["SLURM_JOB_ID"] == "x"


def test_logs_name_the_rank_that_has_none(tmp_path, capsys):
    add_jobs(tmp_path, [record(tmp_path, "3")])
    (tmp_path / "3_0_log.err").write_text("one\ntwo\nthree\n")
    assert cli.main(["launch", "logs", f"run_dir={tmp_path}", "lines=2"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["two", "three"]
    assert cli.main(["launch", "logs", f"run_dir={tmp_path}", "rank=1"]) == 2
    assert "no log of rank 1" in capsys.readouterr().err


def test_progress_is_read_past_a_line_that_a_kill_cut_off(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 7}\n{"step": 8}\n{"st')
    assert progress_of(str(tmp_path))["step"] == 8


@pytest.mark.ranks
def test_the_same_job_runs_here_without_slurm(corpus, tmp_path):
    words = training_words(corpus, tmp_path / "run", n_steps=3, micro_batch_rows=2)
    process = start_helix(
        *("launch", "local=true", "gpus_per_node=0", "tasks_per_node=2", "preflight=true"),
        *("--", *words),
    )
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "ready to train" in output
    assert len(losses_of(tmp_path / "run")) == 3
    folder = tmp_path / "run" / "slurm" / "0000-train"
    assert (folder / "code" / "helix" / "cli.py").exists()
    assert "is_changed" in json.loads((folder / "code" / "commit.json").read_text())
    assert {record["attempt"] for record in read_records(tmp_path / "run")} == {0}
