"""Put a running job back into the queue: `python -m slurm.requeue JOB`, which is HELIX_REQUEUE.

Not `scontrol requeue` alone: that one would wake a job which a person has just cancelled.
"""

import sys
import time

from slurm.queue import SlurmError, ask, report_of

# A controller that restarts, or is too busy to answer; helix waits a minute for this command.
PAUSES_S = (0, 2, 5, 10, 20)
FINAL = ("Invalid job id", "disabled", "denied", "not found")  # asking again changes no such answer


def requeue(job_id: str) -> str:
    """Requeue a job that runs; give an empty text, or why it was not requeued."""
    problem = ""
    for pause_s in PAUSES_S:
        time.sleep(pause_s)
        try:
            report = report_of(job_id)
            if not report.is_running:
                return f"job {job_id} is {report.state}: SLURM or a person decided already"
            ask("scontrol", "requeue", job_id)
            return ""
        except SlurmError as error:
            problem = str(error)
            if any(words in problem for words in FINAL):
                break
    return f"job {job_id} was not requeued: {problem}"


def main(arguments: list[str]) -> int:
    """Requeue the job named by the first argument; 0 if that was done."""
    problem = requeue(arguments[0])
    print(f"slurm: {problem or f'job {arguments[0]} is requeued'}", file=sys.stderr, flush=True)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
