"""Tasks of lm-evaluation-harness on any examinee, each with intervals and comparable by item.

Names are the harness' own, or those in `harness_tasks/`, or paths of YAML files. A task whose data
are on the Hugging Face Hub runs only where they lie in the local cache: nothing is downloaded.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from evals.contract import Result
from evals.evaluation import Evaluation
from evals.examinee import Examinee
from evals.options import Options
from helix.config import ConfigError

OURS = "helix"  # the tag of all tasks in harness_tasks/


@dataclass(frozen=True, kw_only=True)
class HarnessOptions(Options):
    """Options of `helix evaluate harness`.

    Attributes:
        harness_tasks: Names of tasks, groups or tags, or YAML files, with commas between them.
        limit: Items of each task at most, the first ones.
        n_shot: Solved examples before each item; the task's own number where not given.
        bos: Begin each text with what begins a document, as our models are trained. The harness'
            own model of transformers does so only where the tokenizer does.
    """

    harness_tasks: str = OURS
    limit: int | None = None
    n_shot: int | None = None
    bos: bool = True

    @property
    def names(self) -> list[str]:
        """The tasks, in order."""
        return [name for name in self.harness_tasks.split(",") if name]

    def __post_init__(self) -> None:
        super().__post_init__()
        if importlib.util.find_spec("lm_eval") is None:
            raise ConfigError(
                "evaluate harness: lm-evaluation-harness is not installed: "
                "pip install 'helix-pretraining[harness]'"
            )
        if not self.names:
            raise ConfigError("harness_tasks=: name a task, as helix_facts_de")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit={self.limit}: give at least 1, or leave it out")
        if self.n_shot is not None and self.n_shot < 0:
            raise ConfigError(f"n_shot={self.n_shot}: give 0 or more")


def measure(examinee: Examinee, options: HarnessOptions) -> Result:
    """Run tasks of the harness.

    Raises:
        ConfigError: A task is unknown, or its data are not on this machine.
    """
    from evals.harness_run import VERSION, run_tasks  # lm_eval is no part of a plain installation

    runs = run_tasks(examinee, options)
    return Result(
        evaluation=EVALUATION.name,
        subject=examinee.subject,
        settings={"n_shot": options.n_shot, "bos": options.bos, "lm_eval": VERSION},
        sets={run.name: run.fingerprint for run in runs},
        measures={f"{run.name}/{name}": own for run in runs for name, own in run.measures.items()},
        figures={run.name: describe(run.n_items, run.aggregates) for run in runs},
        warnings=[
            f"{run.name}: {', '.join(run.unmeasured)} is no mean over items: a figure without an "
            "interval, not compared"
            for run in runs
            if run.unmeasured
        ],
    )


def describe(n_items: int, aggregates: dict[str, float]) -> dict[str, Any]:
    """Keep the figures as the harness itself sums them up."""
    return {"n_items": n_items, "harness": aggregates}


def show(result: Result, console: Console) -> None:
    """Print a table for a person."""
    table = Table(title=f"lm-evaluation-harness, {result.subject.name}")
    for name in ("", "value", "95%", "unit", "items"):
        table.add_column(name, justify="right" if name in ("value", "95%", "items") else "left")
    for name, own in result.measures.items():
        low, high = own.interval_95
        table.add_row(
            name, f"{own.value:.4f}", f"{low:.3f}-{high:.3f}", own.unit, f"{len(own.numerators):,}"
        )
    console.print(table)


EVALUATION = Evaluation("harness", HarnessOptions, measure, show)
