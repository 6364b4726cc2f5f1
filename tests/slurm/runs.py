"""Runs of the tiny preset under SLURM, and waiting for what becomes of them."""

import time
from collections.abc import Callable
from pathlib import Path

from helix import cli
from helix.training.metrics import read_records
from slurm.jobs import read_jobs
from slurm.queue import ENDED, JobReport, look_up
from tests.conftest import TINY_MODEL

TIMEOUT_S = 240
N_STEPS = 40
TWO_BY_TWO = ("nodes=2", "gpus_per_node=0", "tasks_per_node=2", "time_min=20")
OWN = {
    "training.n_steps": N_STEPS,
    "training.micro_batch_rows": 1,
    "training.checkpoint_every_steps": 5,
    "training.validation_rows": 4,
}


def training_words(corpus: Path, run_dir: Path, **changed: object) -> list[str]:
    """Give the words after --; keywords change training.NAME."""
    own = OWN | {f"training.{name}": value for name, value in changed.items()}
    words = [word for word in TINY_MODEL if word.partition("=")[0] not in own]
    words += [f"{name}={value}" for name, value in own.items()]
    return [f"run_dir={run_dir}", f"data.path={corpus}", *words]


def launch(*words: str) -> None:
    assert cli.main(["launch", *words]) == 0


def job_of(run_dir: Path) -> str:
    return read_jobs(run_dir)[-1].job_id


def report_of(job_id: str) -> JobReport:
    return look_up([job_id])[0]


def wait_until(is_so: Callable[[], object], what: str, run_dir: Path) -> None:
    """Wait; what does not come is told with the logs of all ranks."""
    end = time.monotonic() + TIMEOUT_S
    while not is_so():
        reports = look_up([job.job_id for job in read_jobs(run_dir)])
        has_ended = not any(report.is_queued for report in reports)
        if time.monotonic() > end or (has_ended and not is_so()):
            logs = [
                f"--- {f.name}\n{f.read_text()[-3000:]}" for f in run_dir.glob("slurm/*/*_log.*")
            ]
            raise AssertionError("\n".join([f"did not come: {what}: {reports}", *logs]))
        time.sleep(0.2)


def wait_for_state(run_dir: Path, *states: str, job_id: str = "") -> JobReport:
    """Wait until a job is in one of these states; give its report."""
    job_id = job_id or job_of(run_dir)
    wait_until(lambda: report_of(job_id).state in states, f"{job_id} is {states}", run_dir)
    return report_of(job_id)


def wait_for_end(run_dir: Path, *, job_id: str = "") -> JobReport:
    """Wait until a job has ended, well or not; give its report."""
    return wait_for_state(run_dir, *ENDED, job_id=job_id)


def wait_for_step(run_dir: Path, step: int, *, attempt: int) -> None:
    """Wait until an attempt of a run has written a step's figures."""
    wait_until(
        lambda: any(
            record["attempt"] >= attempt and record["step"] >= step
            for record in read_records(run_dir)
        ),
        f"step {step} of attempt {attempt}",
        run_dir,
    )


def losses_of(run_dir: Path) -> dict[int, float]:
    """Give the loss of each step; of a step that was taken twice, the later one."""
    records = [r for r in read_records(run_dir) if "train/loss_nats_per_token" in r]
    return {int(r["step"]): r["train/loss_nats_per_token"] for r in records}


def steps_of(run_dir: Path, attempt: int) -> list[int]:
    """List the steps that an attempt of a run has taken."""
    records = [r for r in read_records(run_dir) if "train/loss_nats_per_token" in r]
    return [int(r["step"]) for r in records if r["attempt"] == attempt]


def ranks_of(run_dir: Path) -> list[int]:
    """Find the `helix train` processes of a run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"run_dir={run_dir}".encode() in words and b"train" in words:
            found.append(int(folder.name))
    return sorted(found)
