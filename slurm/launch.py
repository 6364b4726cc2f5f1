"""The launcher: `helix launch nodes=4 gpus_per_node=8 -- run_dir=... preset=...`.

    helix launch [train] OPTIONS -- TRAINING WORDS
    helix launch evaluate|data run_dir=DIR [after=JOB] OPTIONS -- WORDS OF THAT COMMAND
    helix launch status|logs|cancel run_dir=DIR [json=true]

The same from `python -m slurm.launch`. The only file that imports submitit.
"""

import contextlib
import dataclasses
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from helix import config as configs
from helix.config import ConfigError, load_options, suggestion
from helix.training.metrics import longest_save_s, read_records
from slurm import jobs, local, snapshot, task
from slurm.jobs import JobRecord, add_jobs
from slurm.plan import (
    LaunchConfig,
    Work,
    plan_command,
    plan_training,
    refuse_preflight,
    refuse_second,
    refuse_sweep,
    split,
    wait_for,
)
from slurm.queue import SlurmError

if TYPE_CHECKING:
    import submitit

VERBS = ("train", "evaluate", "data")
WATCHES: dict[str, Callable[[jobs.WatchOptions], None]] = {
    "status": jobs.status,
    "logs": jobs.logs,
    "cancel": jobs.cancel,
}
OF_THE_SITE = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")
OF_A_RANK = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "HELIX_DEADLINE_UNIX_S",
    "HELIX_REQUEUE",
)
NO_SLURM = "sbatch: not found; run this where SLURM is, or give local=true"
SIGNAL_BEFORE_S = 300  # until a run has measured its saves


def main(arguments: Sequence[str]) -> int:
    """Submit, watch or end jobs; give the exit status.

    Raises:
        ConfigError: A word that does not fit; nothing was submitted.
        SlurmError: SLURM refused.
    """
    verb, words = "train", list(arguments)
    if words and "=" not in words[0] and words[0] != "--":
        verb = words.pop(0)
    if verb in WATCHES:
        WATCHES[verb](load_options(jobs.WatchOptions, words))
        return 0
    if verb not in VERBS:
        allowed = (*VERBS, *WATCHES)
        raise ConfigError(f"launch {verb}: no such verb{suggestion(verb, allowed)}")
    options, sweep, rest = split(words)
    refuse_preflight(options, verb, sweep)
    if verb == "train":
        works = plan_training(options, sweep, rest)
        refuse_second(options, works)
    else:
        refuse_sweep(sweep)
        works = plan_command(verb, options, rest)
        options = dataclasses.replace(options, after=wait_for(options, verb))
    folder = next_folder(works[0].run_dir if len(works) == 1 else Path(options.run_dir), verb)
    if options.dry_run:
        print(dry_script(options, verb, works, folder))
        return 0
    works = [write_config(work, folder, number) for number, work in enumerate(works)]
    snapshot.copy_code(folder / "code")
    if options.local:
        return run_here(options, works, folder)
    submit(options, verb, works, folder)
    return 0


def next_folder(run_dir: Path, verb: str) -> Path:
    """Name the folder of the next submission; it is made by what writes there."""
    taken = [int(p.name.partition("-")[0]) for p in run_dir.glob("slurm/[0-9]*-*")]
    return run_dir / "slurm" / f"{max(taken, default=-1) + 1:04d}-{verb}"


def write_config(work: Work, folder: Path, number: int) -> Work:
    """Keep a run's config where the job finds it unchanged; give the work that reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    if work.config is None:
        return work
    config = work.config
    own_file = Path(config.training.deepspeed)
    if own_file.is_file():
        kept = folder / f"deepspeed-{number}.json"
        kept.write_text(own_file.read_text())
        training = dataclasses.replace(config.training, deepspeed=str(kept))
        config = dataclasses.replace(config, training=training)
    file = config_file(folder, number)
    configs.save(config, file)
    words = [*work.words, f"config={file}", f"run_dir={work.run_dir}"]
    return dataclasses.replace(work, words=words, config=config)


def config_file(folder: Path, number: int) -> Path:
    """Say where a submission keeps the config of one of its runs."""
    return folder / f"config-{number}.yaml"


def make_executor(options: LaunchConfig, verb: str, folder: Path) -> "submitit.SlurmExecutor":
    """Tell submitit what to ask for."""
    try:
        import submitit
    except ImportError:
        message = "launch: needs submitit: pip install 'helix-pretraining[slurm]'"
        raise ConfigError(message) from None

    class Executor(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 1  # so that a script can be shown where there is no SLURM

    asked = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "nodelist": options.nodelist,
        "exclude": options.exclude,
        "comment": options.comment,
        "gpus_per_node": options.gpus_per_node or None,
        "cpus_per_task": options.cpus_per_gpu,
        "mem": f"{options.mem_gib}G" if options.mem_gib else None,
    }
    own = {name: True if value == "true" else value for name, value in options.sbatch.items()}
    extra = own if "no-requeue" in own else {"requeue": True, **own}
    if options.after:
        extra |= {"dependency": f"afterok:{options.after}", "kill-on-invalid-dep": "yes"}
    executor = Executor(folder=folder)
    executor.update_parameters(
        job_name=options.name or f"helix-{verb}-{Path(options.run_dir).name}",
        nodes=options.nodes,
        ntasks_per_node=options.tasks_on_node,
        time=options.time_min,
        signal_delay_s=signal_before_s(options),
        array_parallelism=options.parallelism,
        setup=setup_lines(options, folder),
        srun_args=srun_options(options),
        additional_parameters=extra,
        wckey=None,  # sites that keep wckeys refuse submitit's own
        **{name: value for name, value in asked.items() if value is not None},
    )
    return executor


def setup_lines(options: LaunchConfig, folder: Path) -> list[str]:
    """Give the shell lines before srun; SLURM runs them anew at each attempt."""
    code = shlex.quote(str(folder / "code"))
    exports = [
        f'export PYTHONPATH={code}"${{PYTHONPATH:+:$PYTHONPATH}}"',
        "export PYTHONSAFEPATH=1",  # or python would look into the checkout that it is started in
        f"export HELIX_MAX_RESTARTS={options.max_restarts}",
    ]
    python = shlex.quote(sys.executable)
    deadline = f'export HELIX_DEADLINE_UNIX_S="$({python} -m slurm.environment deadline)"'
    checks = preflight_lines(options, folder) if options.preflight else []
    return [*options.setup.splitlines(), *exports, deadline, *checks]


def preflight_lines(options: LaunchConfig, folder: Path) -> list[str]:
    """Give the shell lines that check the run on all tasks, until it has passed once.

    A task shields the checks from the USR2 of a preemption, by which SLURM requeues the job itself.
    """
    passed = shlex.quote(str(jobs.preflight_passed(folder)))
    srun = ["srun", "--unbuffered", "--output", f"{folder}/%j_%t_log.out"]
    srun += ["--error", f"{folder}/%j_%t_log.err", *srun_options(options)]
    checks = [sys.executable, "-m", "slurm.task", *preflight_words(options, folder)]
    # A rank ends with 2 and srun kills the others: what they print must be out by then.
    variables = "PYTHONUNBUFFERED=1 HELIX_MAX_RESTARTS=0"
    return [
        f"if [ ! -e {passed} ]; then",
        f"  {variables} {shlex.join([*srun, *checks])} || exit 2",
        f"  touch {passed}",
        "fi",
    ]


def preflight_words(options: LaunchConfig, folder: Path) -> list[str]:
    """Give the words that check the run of a submission."""
    config = config_file(folder, 0)
    return ["doctor", "preflight", f"config={config}", f"run_dir={options.run_dir}"]


def srun_options(options: LaunchConfig) -> list[str]:
    """Give the options of each srun in a job."""
    asked = ["--kill-on-bad-exit=1"]  # or ranks wait for ever for one that died
    if options.cpus_per_gpu:
        asked.append(f"--cpus-per-task={options.cpus_per_gpu}")  # srun does not take sbatch's
    return asked


def signal_before_s(options: LaunchConfig) -> int:
    """Choose how long before the limit SLURM sends USR2; it may come a minute early."""
    if options.signal_before_s is not None:
        return options.signal_before_s
    longest_s = longest_save_s(read_records(options.run_dir))
    wanted = SIGNAL_BEFORE_S if not longest_s else max(60, round(3 * longest_s) + 30)
    return min(wanted, options.time_min * 60 // 2)


def dry_script(options: LaunchConfig, verb: str, works: list[Work], folder: Path) -> str:
    """Give the script that would be submitted."""
    executor = make_executor(options, verb, folder)
    if len(works) > 1:
        executor.parameters["map_count"] = len(works)
    return executor._make_submission_file_text(executor._submitit_command_str, "dry")


def submit(options: LaunchConfig, verb: str, works: list[Work], folder: Path) -> None:
    """Queue a job, or an array of them, and note it in the run folders."""
    executor = make_executor(options, verb, folder)
    from submitit.core.utils import FailedJobError

    try:
        with outside_of_jobs():
            if len(works) == 1:
                submitted = [executor.submit(task.run_and_exit, works[0].words)]
            else:
                submitted = executor.map_array(task.run_and_exit, [work.words for work in works])
    except (FailedJobError, FileNotFoundError) as error:
        shutil.rmtree(folder)
        if isinstance(error, FileNotFoundError):
            raise SlurmError(NO_SLURM) from None
        told = [line for line in str(error).splitlines() if "error:" in line]
        raise SlurmError("; ".join(told) or " ".join(str(error).split())) from None
    records = [
        JobRecord(
            job_id=job.job_id,
            verb=verb,
            words=work.words,
            run_dir=str(work.run_dir),
            folder=str(folder),
            submitted_unix_s=time.time(),
            has_preflight=options.preflight,
        )
        for job, work in zip(submitted, works, strict=True)
    ]
    for record in records:
        print(f"job {record.job_id}  {record.run_dir}  logs: {record.log(0, 'out')}")
        if record.run_dir != options.run_dir:
            add_jobs(record.run_dir, [record])
    add_jobs(options.run_dir, records)


@contextlib.contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Keep what describes a job of our own from one that we start: sbatch hands it all on.

    SLURM_CONF and defaults such as SBATCH_ACCOUNT stay, which submitit's own clean_env drops.
    """
    kept = dict(os.environ)
    for name in kept:
        is_slurms = name.startswith(("SLURM_", "SLURMD_", "SRUN_")) and name not in OF_THE_SITE
        if name in OF_A_RANK or name.startswith("SUBMITIT_") or is_slurms:
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def run_here(options: LaunchConfig, works: list[Work], folder: Path) -> int:
    """Run the jobs on this machine, one after the other; give the first status that is not 0."""
    checks = [preflight_words(options, folder)] if options.preflight else []
    for words in (*checks, *(work.words for work in works)):
        with outside_of_jobs():  # or each task would take itself for the one that we are
            status = local.run(
                words,
                n_tasks=options.n_tasks,
                folder=folder,
                environment=snapshot.environment_of(folder / "code"),
            )
        if status:
            return status
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ConfigError, SlurmError, OSError) as error:
        print(f"helix: {error}", file=sys.stderr)
        sys.exit(2)
