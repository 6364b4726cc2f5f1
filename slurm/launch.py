"""The launcher: `helix launch nodes=4 gpus_per_node=8 -- run_dir=... preset=...`.

    helix launch [train] OPTIONS -- TRAINING WORDS
    helix launch evaluate|data run_dir=DIR [after=JOB] OPTIONS -- WORDS OF THAT COMMAND
    helix launch status|logs|cancel run_dir=DIR [json=true]

The same from `python -m slurm.launch`. The only file that imports submitit.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from helix import config as configs
from helix.config import ConfigError, RunConfig, load_options, suggestion
from helix.presets import PRESETS
from slurm import jobs, local, snapshot, task
from slurm.environment import MAX_RESTARTS
from slurm.jobs import JobRecord, add_jobs, read_jobs
from slurm.queue import UNKNOWN, SlurmError, look_up

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


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """What a job asks of SLURM; slurm/README.md tells more.

    Attributes:
        nodes: How many machines.
        gpus_per_node: One task is started for each; 0 on machines without GPUs.
        tasks_per_node: Where gpus_per_node=0.
        cpus_per_gpu: Cores of one task; None leaves it to the site.
        mem_gib: Memory of one node; None leaves it to the site.
        time_min: Limit of one attempt. A run that is not done is requeued.
        signal_before_s: How long before the limit the run is told to save; None takes three times
            its longest save, or 300 s before it has saved.
        max_restarts: Requeues of any kind after which the job ends.
        run_dir: The run's folder; may as well stand among the training words.
        after: Job ids, joined by ":", that must end well first; empty: none. An evaluation where
            it is not given waits for the last training of its run_dir.
        checkpoints: One evaluation for each: all, or steps as 100,200; {checkpoint} in the words
            becomes its folder.
        parallelism: Tasks of an array that run at once.
        setup: Shell lines before the start, as "module load cuda".
        sbatch: Options of sbatch by name that have no word of their own here.
        dry_run: Print the sbatch script and write nothing.
        local: Start the same job here, without SLURM.
    """

    nodes: int = 1
    gpus_per_node: int = 1
    tasks_per_node: int | None = None
    cpus_per_gpu: int | None = None
    mem_gib: int | None = None
    time_min: int = 1440
    signal_before_s: int | None = None
    max_restarts: int = MAX_RESTARTS
    name: str = ""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    comment: str | None = None
    run_dir: str = ""
    after: str | None = None
    checkpoints: str = ""
    parallelism: int = 256
    setup: str = ""
    sbatch: dict[str, Any] = field(default_factory=dict)
    dry_run: bool = False
    local: bool = False

    def __post_init__(self) -> None:
        for name in ("nodes", "time_min", "parallelism"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give at least 1")
        for name in ("gpus_per_node", "max_restarts"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: give 0 or more")
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise ValueError(
                f"tasks_per_node={self.tasks_per_node}: a task is started for each of "
                f"gpus_per_node={self.gpus_per_node}; leave it out, or give gpus_per_node=0"
            )
        if self.tasks_per_node is not None and self.tasks_per_node < 1:
            raise ValueError(f"tasks_per_node={self.tasks_per_node}: give at least 1")
        if (self.signal_before_s or 0) >= self.time_min * 60:
            raise ValueError(
                f"signal_before_s={self.signal_before_s}: must be less than time_min="
                f"{self.time_min}, which is {self.time_min * 60} s"
            )

    @property
    def tasks_on_node(self) -> int:
        """Count the tasks of one node: one a GPU."""
        return self.gpus_per_node or self.tasks_per_node or 1

    @property
    def n_tasks(self) -> int:
        """Count the ranks."""
        return self.nodes * self.tasks_on_node


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one job, or one task of an array, does: `helix` with these words."""

    words: list[str]
    run_dir: Path
    config: RunConfig | None = None


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
    if verb == "train":
        works = plan_training(options, sweep, rest)
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


def split(words: Sequence[str]) -> tuple[LaunchConfig, dict[str, list[str]], list[str]]:
    """Divide words into options, the sweep, and what follows after "--"."""
    cut = words.index("--") if "--" in words else len(words)
    before, rest = list(words[:cut]), list(words[cut + 1 :])
    sweep = {}
    for word in [word for word in before if word.startswith("sweep.")]:
        before.remove(word)
        key, _, text = word.removeprefix("sweep.").partition("=")
        sweep[key] = read_values(key, text)
    own = {option.name for option in dataclasses.fields(LaunchConfig)}
    if cut == len(words):
        for word in [w for w in before if w.partition("=")[0].partition(".")[0] not in own]:
            raise ConfigError(
                f"{word}: no such option of launch; words for the command itself stand after --, "
                f"as in: helix launch nodes=1 -- {word}"
            )
    options = load_options(LaunchConfig, before)
    inner = next((word.partition("=")[2] for word in rest if word.startswith("run_dir=")), "")
    if options.run_dir and inner and options.run_dir != inner:
        raise ConfigError(f"run_dir={options.run_dir}: and another one after --, {inner}")
    run_dir = options.run_dir or inner
    if not run_dir:
        raise ConfigError("run_dir=: say where the run keeps its files, as in run_dir=runs/first")
    return dataclasses.replace(options, run_dir=str(Path(run_dir).absolute())), sweep, rest


def read_values(key: str, text: str) -> list[str]:
    """Read the list of a sweep."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        values = None
    is_flat = isinstance(values, list) and not any(isinstance(v, dict | list) for v in values)
    if not is_flat or not values:
        raise ConfigError(f"sweep.{key}={text}: give a list, as in sweep.{key}=[1e-3,3e-3]")
    return [str(value) for value in values]


def plan_training(
    options: LaunchConfig, sweep: dict[str, list[str]], words: list[str]
) -> list[Work]:
    """Load and check the config of each run: a mistake shall be told before anything waits."""
    if options.checkpoints:
        raise ConfigError(f"checkpoints={options.checkpoints}: is for evaluations")
    words = [word for word in words if not word.startswith("run_dir=")]
    works = []
    for values in itertools.product(*sweep.values()):
        chosen = dict(zip(sweep, values, strict=True))
        name = ",".join(re.sub(r"[^\w.+=-]+", "_", f"{k}={v}") for k, v in chosen.items())
        run_dir = Path(options.run_dir, name)
        own = [*words, *(f"{key}={value}" for key, value in chosen.items())]
        config = configs.load([*own, f"run_dir={run_dir}"], PRESETS)
        check(config, options.n_tasks)
        works.append(Work(words=["train"], run_dir=run_dir, config=config))
    return works


def check(config: RunConfig, n_ranks: int) -> None:
    """Refuse a run that its ranks would refuse at their start; see `load` for errors."""
    from helix.training.engine import read_ds_config  # imports deepspeed, which takes seconds

    config.training.n_accumulations(n_ranks)
    read_ds_config(config.training.deepspeed)
    saved = configs.saved_path(config.run_dir)
    if saved.exists():
        difference = configs.first_difference(config, configs.load_file(saved, config))
        if difference:
            raise ConfigError(
                f"run_dir={config.run_dir}: holds another run: {difference}; "
                "give the same settings, or another run_dir"
            )


def plan_command(verb: str, options: LaunchConfig, words: list[str]) -> list[Work]:
    """Say what evaluations or data jobs do: one, or one for each checkpoint."""
    run_dir = Path(options.run_dir)
    folders = checkpoint_folders(options) or [None]
    works = []
    for checkpoint in folders:
        filled = [word.replace("{run_dir}", str(run_dir)) for word in words]
        if checkpoint is not None:
            filled = [word.replace("{checkpoint}", str(checkpoint)) for word in filled]
        works.append(Work(words=[verb, *filled], run_dir=run_dir))
    if folders != [None] and works[0].words == [verb, *words]:
        raise ConfigError(
            f"checkpoints={options.checkpoints}: write {{checkpoint}} where its folder belongs "
            "among the words after --"
        )
    return works


def refuse_sweep(sweep: dict[str, list[str]]) -> None:
    """Say that only a training has settings to sweep over."""
    for key in sweep:
        raise ConfigError(f"sweep.{key}: is for training")


def checkpoint_folders(options: LaunchConfig) -> list[Path | None]:
    """List the checkpoints that are there now, or those of the steps that were asked for."""
    folder = Path(options.run_dir) / "checkpoints"
    if not options.checkpoints:
        return []
    if options.checkpoints == "all":
        found: list[Path | None] = [*sorted(folder.glob("step-*"))]
        if not found:
            raise ConfigError(f"checkpoints=all: there is none in {folder} yet; name their steps")
        return found
    try:
        return [folder / f"step-{int(step):08d}" for step in options.checkpoints.split(",")]
    except ValueError:
        raise ConfigError(
            f"checkpoints={options.checkpoints}: give all, or steps as 100,200"
        ) from None


def wait_for(options: LaunchConfig, verb: str) -> str:
    """Say which jobs a command waits for: those given, or an evaluation's training.

    Raises:
        SlurmError: One of them failed, so that the command would never start.
    """
    ids = [job_id for job_id in (options.after or "").split(":") if job_id]
    if options.after is None and verb == "evaluate" and not options.local:
        trained = [job for job in read_jobs(options.run_dir) if job.verb == "train"]
        ids = [job.job_id for job in trained if job.folder == trained[-1].folder]
    if not ids or options.dry_run:
        return ":".join(ids)
    waited = []
    for report in look_up(ids):
        if report.state in (*jobs.IN_QUEUE, UNKNOWN, "PREEMPTED", "NODE_FAIL"):
            waited.append(report.job_id)
        elif report.state not in jobs.ENDED_WELL:
            raise SlurmError(
                f"after={report.job_id}: that job is {report.state}; what waits for it would never "
                "start. Train again, or give after= to wait for none"
            )
    return ":".join(waited)


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
    file = folder / f"config-{number}.yaml"
    configs.save(config, file)
    words = [*work.words, f"config={file}", f"run_dir={work.run_dir}"]
    return dataclasses.replace(work, words=words, config=config)


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
    extra = {"requeue": True, **options.sbatch}
    if options.after:
        extra |= {"dependency": f"afterok:{options.after}", "kill-on-invalid-dep": "yes"}
    srun = ["--kill-on-bad-exit=1"]  # or ranks wait for ever for one that died
    if options.cpus_per_gpu:
        srun.append(f"--cpus-per-task={options.cpus_per_gpu}")  # srun does not take sbatch's
    executor = Executor(folder=folder)
    executor.update_parameters(
        job_name=options.name or f"helix-{verb}-{Path(options.run_dir).name}",
        nodes=options.nodes,
        ntasks_per_node=options.tasks_on_node,
        time=options.time_min,
        signal_delay_s=signal_before_s(options),
        array_parallelism=options.parallelism,
        setup=setup_lines(options, folder),
        srun_args=srun,
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
    return [*options.setup.splitlines(), *exports, deadline]


def signal_before_s(options: LaunchConfig) -> int:
    """Choose how long before the limit SLURM sends USR2; it may come a minute early."""
    if options.signal_before_s is not None:
        return options.signal_before_s
    longest_s = longest_save_s(Path(options.run_dir))
    wanted = SIGNAL_BEFORE_S if longest_s is None else max(60, round(3 * longest_s) + 30)
    return min(wanted, options.time_min * 60 // 2)


def longest_save_s(run_dir: Path) -> float | None:
    """Find the longest save that a run has measured; None before there was one."""
    longest = None
    with contextlib.suppress(OSError), (run_dir / "metrics.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            if '"checkpoint/write_s"' in line:
                with contextlib.suppress(ValueError):  # the last line may be cut off
                    longest = max(longest or 0.0, float(json.loads(line)["checkpoint/write_s"]))
    return longest


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
    """Keep what describes a job of our own from one that we submit: sbatch hands it all on.

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
    for work in works:
        status = local.run(
            work.words,
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
