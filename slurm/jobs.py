"""The jobs of a run folder: what was submitted, how it stands, its logs, and its end.

slurm/jobs.json                 one entry a job, the newest last
slurm/0000-train/               of one submission: code, config, script, logs of each rank
                 preflight.passed        with preflight=true, once its checks went well
"""

import dataclasses
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.queue import JobReport, SlurmError, ask, look_up, to_dict


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One submitted job, or one task of an array.

    Attributes:
        job_id: 42, or 42_3 for task 3 of an array.
        folder: Where its script and logs are.
        has_preflight: Whether it makes checks before it trains.
    """

    job_id: str
    verb: str
    words: list[str]
    run_dir: str
    folder: str
    submitted_unix_s: float
    has_preflight: bool = False

    @property
    def may_save(self) -> bool:
        """Whether it saves when it is told to: it trains, and its checks are behind it."""
        is_past = not self.has_preflight or preflight_passed(self.folder).exists()
        return self.verb == "train" and is_past

    def log(self, rank: int, kind: str) -> Path:
        """Say where the output of a rank is: kind is out or err."""
        return Path(self.folder) / f"{self.job_id}_{rank}_log.{kind}"


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Options of status, logs and cancel.

    Attributes:
        run_dir: Of a run, or of a sweep.
        job: This one only; all of the folder where it is not given (logs: the newest).
        json: Print JSON.
        rank: Whose log.
        lines: How many of its last lines.
        save: Let a training save before it ends; else it has what KillWait leaves it, mostly 30 s.
    """

    run_dir: str
    job: str = ""
    json: bool = False
    rank: int = 0
    lines: int = 40
    save: bool = False


def jobs_file(run_dir: str | Path) -> Path:
    """Say where a run folder keeps what was submitted for it."""
    return Path(run_dir) / "slurm" / "jobs.json"


def preflight_passed(folder: str | Path) -> Path:
    """Say which file of a submission tells that its checks went well."""
    return Path(folder) / "preflight.passed"


def read_jobs(run_dir: str | Path) -> list[JobRecord]:
    """Read what was submitted for a run folder, the newest last."""
    file = jobs_file(run_dir)
    return [JobRecord(**entry) for entry in json.loads(file.read_text())] if file.exists() else []


def add_jobs(run_dir: str | Path, records: list[JobRecord]) -> None:
    """Note jobs in a run folder."""
    file = jobs_file(run_dir)
    file.parent.mkdir(parents=True, exist_ok=True)
    entries = [dataclasses.asdict(record) for record in (*read_jobs(run_dir), *records)]
    partial = file.with_name(f".jobs.{os.getpid()}")
    partial.write_text(json.dumps(entries, indent=1))
    partial.replace(file)


def chosen_jobs(options: WatchOptions) -> list[JobRecord]:
    """Give the jobs that the options mean.

    Raises:
        SlurmError: There are none.
    """
    jobs = read_jobs(options.run_dir)
    if options.job:
        jobs = [j for j in jobs if options.job in (j.job_id, j.job_id.partition("_")[0])]
    if not jobs:
        named = f" with id {options.job}" if options.job else ""
        raise SlurmError(
            f"run_dir={options.run_dir}: no job{named} was submitted from there; "
            "`helix launch ... -- run_dir=... preset=...` does"
        )
    return jobs


def status(options: WatchOptions) -> None:
    """Print how the jobs of a run folder stand, and how far their runs have come."""
    jobs = chosen_jobs(options)
    reports = look_up([job.job_id for job in jobs])
    rows = [describe(job, report) for job, report in zip(jobs, reports, strict=True)]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(line_of(row))


def describe(job: JobRecord, report: JobReport) -> dict[str, Any]:
    """Put together what SLURM and the run's own figures say."""
    row = {**dataclasses.asdict(job), **to_dict(report), "progress": progress_of(job.run_dir)}
    if report.state == "PENDING" and report.reason == "BeginTime" and report.n_restarts:
        row["reason"] = "BeginTime (SLURM holds a requeued job for up to two minutes)"
    return row


def line_of(row: dict[str, Any]) -> str:
    """Put a job into one line."""
    parts = [row["job_id"], row["verb"], row["state"]]
    if row["reason"]:
        parts.append(f"({row['reason']})")
    if row["nodes"]:
        parts.append(f"on {row['nodes']}")
    if row["n_restarts"]:
        parts.append(f"restarts {row['n_restarts']}")
    if row["left_s"] is not None:
        parts.append(f"{row['left_s'] // 60} min left")
    if row["progress"]:
        step, age_s = row["progress"]["step"], row["progress"]["age_s"]
        parts.append(f"step {step}, written {age_s} s ago")
    if row["source"] != "squeue":
        parts.append(f"[{row['source']}]")
    return "  ".join(parts)


def progress_of(run_dir: str) -> dict[str, int] | None:
    """Say which step a run wrote last, and how long ago; None if it wrote none yet."""
    file = Path(run_dir) / "metrics.jsonl"
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - 65_536))
            lines = stream.read().splitlines()
        age_s = int(time.time() - file.stat().st_mtime)
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return {"step": int(json.loads(line)["step"]), "age_s": age_s}
        except (ValueError, KeyError, TypeError):
            continue  # cut off: by the place where we began to read, or by a kill
    return None


def logs(options: WatchOptions) -> None:
    """Print the end of a rank's output and of its errors."""
    job = chosen_jobs(options)[-1]
    if not any(job.log(options.rank, kind).exists() for kind in ("out", "err")):
        raise SlurmError(
            f"{job.log(options.rank, 'out')}: no log of rank {options.rank} yet; "
            f"`helix launch status run_dir={options.run_dir}` says whether the job runs"
        )
    for kind in ("out", "err"):
        file = job.log(options.rank, kind)
        if file.exists():
            print(f"==> {file}")
            print(*file.read_text(errors="replace").splitlines()[-options.lines :], sep="\n")


def cancel(options: WatchOptions) -> None:
    """End the jobs of a run folder that have not ended: at once, or trainings after a save."""
    jobs = {job.job_id: job for job in chosen_jobs(options)}
    at_once: list[str] = []
    saving: list[str] = []
    for report in look_up(list(jobs)):
        is_to_save = options.save and report.is_running and jobs[report.job_id].may_save
        if report.is_queued:
            (saving if is_to_save else at_once).append(report.job_id)
    for job_id in saving:
        ask("scontrol", "update", f"JobId={job_id}", "Requeue=0")
        ask("scancel", "--signal=USR2", job_id)
    if at_once:
        ask("scancel", *at_once)
    if options.json:
        print(json.dumps({"cancelled": at_once, "saving": saving}))
        return
    told = [f"cancelled {job_id}" for job_id in at_once]
    told += [f"{job_id} saves and ends" for job_id in saving]
    print("\n".join(told) or "nothing to cancel: all jobs have ended", file=sys.stderr)
