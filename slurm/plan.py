"""What is to be launched: options and words become the works of a job, or a mistake is told.

Nothing here is written, and SLURM is asked only for jobs: those that a command waits for, and those
that train a run already.
"""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from data_tools.options import read as read_data
from evals.suite import read as read_evaluation
from helix import config as configs
from helix.config import ConfigError, RunConfig, load_options
from helix.presets import PRESETS
from helix.training.checkpoint import list_saved
from helix.training.ds_settings import compose_ds_config
from slurm.environment import MAX_RESTARTS
from slurm.jobs import read_jobs
from slurm.queue import ENDED_WELL, UNKNOWN, SlurmError, look_up

READERS = {"evaluate": read_evaluation, "data": read_data}


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
        checkpoints: One evaluation for each: all, or steps as 100,200; {step} in the words becomes
            its number.
        parallelism: Tasks of an array that run at once.
        setup: Shell lines before the start, as "module load cuda".
        preflight: Make the checks of `helix doctor preflight` on all tasks first; where one fails
            the job ends with 2.
        sbatch: Options of sbatch by name that have no word of their own here; "true" for one that
            takes no value.
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
    preflight: bool = False
    sbatch: dict[str, str] = field(default_factory=dict)
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
        self._check_sbatch()

    def _check_sbatch(self) -> None:
        for name, value in self.sbatch.items():
            if str(value).lower() in ("", "false", "null") or str(value).startswith(("[", "{")):
                raise ValueError(
                    f"sbatch.{name}={value}: give one value, or true where it takes none; leave "
                    "out what is not wanted"
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
    for run_dir, n_runs in Counter(work.run_dir for work in works).items():
        if n_runs > 1:
            raise ConfigError(
                f"run_dir={run_dir}: {n_runs} runs of the sweep would share it; give values whose "
                "names differ"
            )
    return works


def refuse_second(options: LaunchConfig, works: list[Work]) -> None:
    """Refuse to queue a run that a job trains, or is to train, already.

    Raises:
        ConfigError: There is such a job.
        SlurmError: SLURM cannot be asked.
    """
    if options.local or options.dry_run:
        return
    run_dirs = {
        job.job_id: job.run_dir
        for work in works
        for job in read_jobs(work.run_dir)
        if job.verb == "train" and job.run_dir == str(work.run_dir)  # not those of a sweep below it
    }
    for report in look_up(list(run_dirs)) if run_dirs else []:
        if report.is_queued:
            where = f"run_dir={run_dirs[report.job_id]}"
            raise ConfigError(
                f"{where}: job {report.job_id} trains it already, and is {report.state}; "
                f"`helix launch status {where}` tells more, `helix launch cancel {where}` ends it"
            )


def check(config: RunConfig, n_ranks: int) -> None:
    """Refuse a run that its ranks would refuse at their start; see `load` for errors."""
    compose_ds_config(config, n_ranks)
    saved = configs.saved_path(config.run_dir)
    if saved.exists():
        difference = configs.first_difference(config, configs.load_file(saved, config))
        if difference:
            raise ConfigError(
                f"run_dir={config.run_dir}: holds another run: {difference}; "
                "give the same settings, or another run_dir"
            )


def plan_command(verb: str, options: LaunchConfig, words: list[str]) -> list[Work]:
    """Say what evaluations or data jobs do: one, or one for each checkpoint.

    Their words are read here as the job will read them, so that no mistake waits with it.
    """
    run_dir = Path(options.run_dir)
    if bool(options.checkpoints) != any("{step}" in word for word in words):
        raise ConfigError(
            f"checkpoints={options.checkpoints}: goes together with step={{step}} among the words "
            "after --; give both or neither"
        )
    works = []
    for step in steps_of(options) or [""]:
        filled = [w.replace("{run_dir}", str(run_dir)).replace("{step}", step) for w in words]
        READERS[verb](filled)
        works.append(Work(words=[verb, *filled], run_dir=run_dir))
    return works


def refuse_sweep(sweep: dict[str, list[str]]) -> None:
    """Say that only a training has settings to sweep over."""
    for key in sweep:
        raise ConfigError(f"sweep.{key}: is for training")


def refuse_preflight(options: LaunchConfig, verb: str, sweep: dict[str, list[str]]) -> None:
    """Say where there is no preflight."""
    if options.preflight and verb != "train":
        raise ConfigError("preflight=true: is for training")
    if options.preflight and sweep:
        raise ConfigError(
            "preflight=true: is for one run, not for a sweep; check one run of it by "
            "helix doctor preflight, or leave it out"
        )


def steps_of(options: LaunchConfig) -> list[str]:
    """List the steps of the checkpoints that are there now, or those that were asked for."""
    if not options.checkpoints:
        return []
    if options.checkpoints == "all":
        found = [str(saved.step) for saved in list_saved(options.run_dir)]
        if not found:
            raise ConfigError(
                f"checkpoints=all: there is none in {options.run_dir} yet; name their steps"
            )
        return found
    try:
        return [str(int(step)) for step in options.checkpoints.split(",")]
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
        if report.is_queued or report.state in (UNKNOWN, "PREEMPTED", "NODE_FAIL"):
            waited.append(report.job_id)
        elif report.state not in ENDED_WELL:
            raise SlurmError(
                f"after={report.job_id}: that job is {report.state}; what waits for it would never "
                "start. Train again, or give after= to wait for none"
            )
    return ":".join(waited)
