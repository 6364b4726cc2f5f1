"""What SLURM says of jobs: squeue first, sacct for those that squeue has forgotten."""

import dataclasses
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

TIMEOUT_S = 60
UNKNOWN = "UNKNOWN"
ENDED_WELL = ("COMPLETED",)
ENDED = (
    *ENDED_WELL,
    "BOOT_FAIL",
    "CANCELLED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
)
RUNNING = ("RUNNING", "SIGNALING", "RESIZING")  # SIGNALING lasts while a node does not answer
COLUMNS = ("JobArrayID", "State", "Reason", "RestartCnt", "TimeUsed", "TimeLeft", "NodeList")


class SlurmError(RuntimeError):
    """SLURM refused or did not answer; the message says what it said."""


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """One job, or one task of an array, as SLURM sees it.

    Attributes:
        job_id: As users write it: 42, or 42_3 for task 3 of an array.
        state: SLURM's own word, as RUNNING; UNKNOWN where nobody knows the job any longer.
        n_restarts: How often it was requeued; None where that is not known.
        left_s: Time until its limit; None without a limit, or where it does not run.
        source: Who said so: squeue, sacct, or what is missing.
    """

    job_id: str
    state: str
    reason: str = ""
    n_restarts: int | None = None
    elapsed_s: int | None = None
    left_s: int | None = None
    nodes: str = ""
    source: str = "squeue"

    @property
    def is_running(self) -> bool:
        """Whether its processes run, and nobody has decided to end or requeue it."""
        return self.state in RUNNING

    @property
    def is_queued(self) -> bool:
        """Whether it waits, runs or is being ended: any state of SLURM's that is not an end."""
        return self.state not in (*ENDED, UNKNOWN)


def ask(*command: str) -> str:
    """Run one of SLURM's commands; give what it printed.

    Raises:
        SlurmError: It is not there, failed, or gave no answer.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except FileNotFoundError:
        raise SlurmError(f"{command[0]}: not found; run this where SLURM is installed") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]}: no answer in {TIMEOUT_S} s; try again later") from None
    if done.returncode:
        raise SlurmError(f"{' '.join(command)}: {' '.join(done.stderr.split())}")
    return done.stdout


def look_up(job_ids: Sequence[str]) -> list[JobReport]:
    """Report jobs in the order given; one that nobody knows is reported as UNKNOWN."""
    found = in_queue(job_ids)
    forgotten = [job_id for job_id in job_ids if job_id not in found]
    source = "no longer in squeue"
    if forgotten:
        try:
            found |= in_accounts(forgotten)
            source += ", nor in sacct"
        except SlurmError:
            source += "; this cluster keeps no accounts to ask"
    unknown = {i: JobReport(job_id=i, state=UNKNOWN, source=source) for i in forgotten}
    return [(unknown | found)[job_id] for job_id in job_ids]


def in_queue(job_ids: Sequence[str]) -> dict[str, JobReport]:
    """Ask squeue, which knows jobs that wait or run, and for some minutes those that ended."""
    columns = ",".join(f"{name}:|" for name in COLUMNS)
    every = ("--noheader", "--array", "--states=all")
    reports = {}
    asked = ",".join(sorted({job_id.partition("_")[0] for job_id in job_ids}))
    try:
        listed = ask("squeue", *every, f"--jobs={asked}", f"--Format={columns}")
    except SlurmError as error:
        if "Invalid job id" not in str(error):  # what it says of a single job that it has forgotten
            raise
        listed = ""
    for line in listed.splitlines():
        job_id, state, reason, restarts, used, left, nodes = line.split("|")[: len(COLUMNS)]
        if job_id in job_ids:
            reports[job_id] = JobReport(
                job_id=job_id,
                state=state,
                reason="" if reason == "None" else reason,
                n_restarts=int(restarts),
                elapsed_s=seconds_of(used),
                left_s=seconds_of(left) if state in RUNNING else None,
                nodes=nodes,
            )
    return reports


def in_accounts(job_ids: Sequence[str]) -> dict[str, JobReport]:
    """Ask sacct, which knows all jobs that ever were, one line for each attempt."""
    names = "--format=JobID,State,Elapsed,NodeList"
    listed = ask("sacct", "-D", "-n", "-P", "-X", "-j", ",".join(job_ids), names)
    reports: dict[str, JobReport] = {}
    for line in listed.splitlines():
        job_id, state, elapsed, nodes = line.split("|")
        if job_id in job_ids:
            before = reports.get(job_id)
            reports[job_id] = JobReport(
                job_id=job_id,
                state=state.split()[0],  # "CANCELLED by 1000"
                n_restarts=0 if before is None else (before.n_restarts or 0) + 1,
                elapsed_s=seconds_of(elapsed),
                nodes=nodes,
                source="sacct",
            )
    return reports


def report_of(job_id: str) -> JobReport:
    """Report one job, by what slurm.environment.job_id_of gives; see `ask` for errors."""
    columns = ",".join(f"{name}:|" for name in ("State", "Reason", "TimeLeft"))
    listed = ask("squeue", "--noheader", "--states=all", f"--jobs={job_id}", f"--Format={columns}")
    state, reason, left = listed.splitlines()[0].split("|")[:3]
    return JobReport(job_id=job_id, state=state, reason=reason, left_s=seconds_of(left))


def seconds_of(text: str) -> int | None:
    """Read SLURM's days-hours:minutes:seconds; None for UNLIMITED, INVALID and the like."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def to_dict(report: JobReport) -> dict[str, str | int | None]:
    """Give a report as JSON has it."""
    return dataclasses.asdict(report)
