"""From SLURM's variables to those that a rank is started with: torchrun's, a deadline, a requeue.

`python -m slurm.environment deadline` prints when the time of this job is up.
"""

import os
import re
import shlex
import sys
import time
from collections.abc import Mapping, MutableMapping

from slurm.queue import SlurmError, report_of

# Below the ports that Linux hands to outgoing connections (from 32768 on), one of which might
# otherwise hold ours; above those of well-known services.
FIRST_PORT, N_PORTS = 10_000, 22_000
MAX_RESTARTS = 1000  # of any kind: on slots of four hours, half a year
INTERACTIVE_STEP = 0xFFFFFFFA  # SLURM's number for the step that an salloc shell runs in


def rank_environment(slurm: Mapping[str, str]) -> dict[str, str]:
    """Name this rank and where rank 0 is, from the variables of a step's task.

    Where each task was given one GPU alone (--gpus-per-task), that one is its device 0.
    """
    n_tasks = slurm.get("SLURM_STEP_NUM_TASKS") or slurm["SLURM_NTASKS"]
    on_nodes = slurm.get("SLURM_STEP_TASKS_PER_NODE") or slurm["SLURM_TASKS_PER_NODE"]
    nodes = slurm.get("SLURM_STEP_NODELIST") or slurm["SLURM_JOB_NODELIST"]
    visible = slurm.get("CUDA_VISIBLE_DEVICES", "")
    has_own_gpu = bool(visible) and "," not in visible
    return {
        "RANK": slurm["SLURM_PROCID"],
        "LOCAL_RANK": "0" if has_own_gpu else slurm["SLURM_LOCALID"],
        "WORLD_SIZE": n_tasks,
        "LOCAL_WORLD_SIZE": str(tasks_of_nodes(on_nodes)[int(slurm.get("SLURM_NODEID", "0"))]),
        "MASTER_ADDR": first_host(nodes),
        "MASTER_PORT": str(
            port_of(
                int(slurm["SLURM_JOB_ID"]),
                step=int(slurm.get("SLURM_STEP_ID", "0")),
                n_restarts=n_restarts(slurm),
            )
        ),
    }


def scheduler_environment(slurm: Mapping[str, str], left_s: int | None) -> dict[str, str]:
    """Say when time is up, and how the job is put back into the queue, if it may be.

    Args:
        left_s: Time until the limit; None if there is none.
    """
    named = {"HELIX_DEADLINE_UNIX_S": str(int(time.time()) + left_s)} if left_s is not None else {}
    limit = int(slurm.get("HELIX_MAX_RESTARTS") or MAX_RESTARTS)
    may_requeue = n_restarts(slurm) < limit
    command = [sys.executable, "-m", "slurm.requeue", job_id_of(slurm)]
    return {**named, "HELIX_REQUEUE": shlex.join(command) if may_requeue else ""}


def task_environment(slurm: Mapping[str, str]) -> dict[str, str]:
    """Put together what a rank in a job needs; asks squeue unless the deadline is known already."""
    left_s = None
    if not slurm.get("HELIX_DEADLINE_UNIX_S"):
        left_s = time_left_s(job_id_of(slurm))
    return {**rank_environment(slurm), **scheduler_environment(slurm, left_s)}


def adopt(environment: MutableMapping[str, str]) -> None:
    """Make `srun python -m helix train` ranks of one run; elsewhere, do nothing.

    A shell in an allocation is left alone, and so are ranks that torchrun or deepspeed started.
    """
    if "RANK" not in environment and is_task(environment):
        environment.update(task_environment(environment))


def is_task(slurm: Mapping[str, str]) -> bool:
    """Tell whether this is a task of a step that srun started, and not a shell in one."""
    step = slurm.get("SLURM_STEP_ID", "")
    return (
        "SLURM_PROCID" in slurm
        and "SLURM_STEP_NUM_TASKS" in slurm  # a batch script has a PROCID too, but no step
        and step.isdecimal()
        and int(step) < INTERACTIVE_STEP
        # srun --pty bash; what srun starts from there inherits the variable, not the terminal.
        and not ("SLURM_PTY_PORT" in slurm and has_terminal())
    )


def has_terminal() -> bool:
    """Tell whether a terminal controls this process, wherever its output goes."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True


def job_id_of(slurm: Mapping[str, str]) -> str:
    """Name the job so that SLURM means it alone: 42, or 42_3 for one task of an array.

    An array's last task has the number of the array, by which SLURM means all of its tasks. Others
    go by their own: a job that was submitted from a task inherits that one's SLURM_ARRAY_JOB_ID.
    """
    job_id = slurm["SLURM_JOB_ID"]
    if slurm.get("SLURM_ARRAY_JOB_ID") == job_id:
        return f"{job_id}_{slurm['SLURM_ARRAY_TASK_ID']}"
    return job_id


def n_restarts(slurm: Mapping[str, str]) -> int:
    """Count how often the job was requeued; SLURM sets nothing on the first try."""
    return int(slurm.get("SLURM_RESTART_COUNT") or 0)


def port_of(job_id: int, *, step: int = 0, n_restarts: int = 0) -> int:
    """Derive a port on which all ranks agree without talking.

    Another one after a requeue: processes of the attempt before may still hold theirs.
    """
    return FIRST_PORT + (job_id + 7919 * step + 104_729 * n_restarts) % N_PORTS


def first_host(nodes: str) -> str:
    """Give the first host of a node list such as `gpu[07-09,12],login1`."""
    bracketed = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", bracketed[0] if bracketed else nodes)


def tasks_of_nodes(text: str) -> list[int]:
    """Expand SLURM's `2(x3),1` to one count a node."""
    counts: list[int] = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts


def time_left_s(job_id: str) -> int | None:
    """Ask for the time until a job's limit; None without a limit, or without an answer."""
    try:
        return report_of(job_id).left_s
    except SlurmError as error:
        print(f"slurm: no deadline is known: {error}", file=sys.stderr)
        return None


def main(slurm: Mapping[str, str]) -> None:
    """Print when the time of this job is up, in seconds since 1970; nothing without a limit."""
    left_s = time_left_s(job_id_of(slurm))
    print("" if left_s is None else int(time.time()) + left_s)


if __name__ == "__main__":
    main(os.environ)
