"""Tasks of lm-evaluation-harness: found, run without network, and read item by item."""

import difflib
import importlib.metadata
import json
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets.config
import huggingface_hub.constants
import lm_eval.tasks
import numpy as np
import torch
from lm_eval.api.metrics import bits_per_byte, mean
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from evals.contract import SHARE, Measure, hash_texts
from evals.examinee import Examinee
from evals.harness import HarnessOptions
from evals.harness_model import ExamineeLM
from helix.config import ConfigError, first_line
from helix.distributed import local_device, seed_everything

VERSION = importlib.metadata.version("lm-eval")
OWN_TASKS = Path(__file__).parent / "harness_tasks"
THEIR_TASKS = Path(lm_eval.tasks.__file__).parent
SEED = 1234  # of the harness' own command line, for solved examples


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """One task as one examinee did it.

    Attributes:
        fingerprint: Hash of the task's version, its requests and their right answers.
        measures: Metrics that are ratios of sums over items.
        aggregates: All metrics as the harness sums them up.
        unmeasured: Names of metrics that are no such ratio.
        samples: What the harness noted of each item.
    """

    name: str
    fingerprint: str
    n_items: int
    measures: dict[str, Measure]
    aggregates: dict[str, float]
    unmeasured: list[str]
    samples: list[dict[str, Any]]


def run_tasks(examinee: Examinee, options: HarnessOptions) -> list[TaskRun]:
    """Run the tasks that the options name; all ranks call it and get all runs.

    Raises:
        ConfigError: A task is unknown, or its data are not on this machine.
    """
    with quiet_and_offline(), own_random():
        tasks = load_tasks(options.names)
        for task in tasks.values():
            set_shots(task, options.n_shot)
        found: Any = evaluate(
            ExamineeLM(examinee, options),
            {"tasks": tasks},
            limit=options.limit,
            log_samples=True,
            bootstrap_iters=0,
        )
    assert found is not None, "every rank runs as the only one"
    return [
        read_task(name, task, found["samples"][name], found["results"][name])
        for name, task in tasks.items()
    ]


def load_tasks(names: Sequence[str]) -> dict[str, Any]:
    """Load tasks by name or path."""
    manager = manager_of(names)
    tasks = {}
    for name in names:
        if not knows(manager, name):
            near = ", ".join(difflib.get_close_matches(name, manager.all_tasks, n=5))
            known = f"; did you mean {near}?" if near else ""
            raise ConfigError(f"harness_tasks={name}: no such task or YAML file{known}")
        try:
            tasks |= manager.load(name)["tasks"]
        except Exception as error:  # a task is code and data of others: anything may be wrong
            raise ConfigError(
                f"harness_tasks={name}: cannot be loaded ({first_line(error)}); nothing is "
                "downloaded: its data must lie in the local cache of datasets"
            ) from error
    return tasks


def manager_of(names: Sequence[str]) -> TaskManager:
    """Index our tasks, and the harness' own only where a name asks: they are 14,000 files."""
    manager = TaskManager(include_path=str(OWN_TASKS), include_defaults=False)
    if all(knows(manager, name) for name in names):
        return manager
    folders: list[str | Path] = [THEIR_TASKS, OWN_TASKS]
    return TaskManager(include_path=folders, include_defaults=False)


def knows(manager: TaskManager, name: str) -> bool:
    """Tell whether a name is a task's, a group's or a tag's, or a file."""
    return name in manager.task_index or Path(name).is_file()


def set_shots(task: Any, n_shot: int | None) -> None:
    """Set the number of solved examples; a task that says 0 takes none."""
    own = task.get_config("num_fewshot")
    if own is None or (n_shot is not None and own != 0):
        task.set_config(key="num_fewshot", value=n_shot or 0)
    task.set_fewshot_seed(seed=SEED)


def read_task(
    name: str, task: Any, samples: list[dict[str, Any]], aggregates: dict[str, Any]
) -> TaskRun:
    """Read what the harness noted of a task."""
    measures: dict[str, Measure] = {}
    unmeasured = []
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    for chosen in filters:
        own = [sample for sample in samples if sample["filter"] == chosen]
        for metric in own[0]["metrics"]:
            label = metric if chosen == "none" else f"{metric},{chosen}"
            measured = measure_metric(task, metric, [sample[metric] for sample in own])
            if measured is None:
                unmeasured.append(label)
            else:
                measures[label] = measured
    first = [sample for sample in samples if sample["filter"] == filters[0]]
    return TaskRun(
        name=name,
        fingerprint=hash_texts([str(task.VERSION), *map(describe_request, first)]),
        n_items=len(first),
        measures=measures,
        aggregates={
            key: float(value)
            for key, value in aggregates.items()
            if isinstance(value, int | float) and "," in key
        },
        unmeasured=unmeasured,
        samples=samples,
    )


def describe_request(sample: dict[str, Any]) -> str:
    """Write what was asked and what is right."""
    return json.dumps([sample["arguments"], sample["doc_hash"], sample["target_hash"]])


def measure_metric(task: Any, metric: str, values: Sequence[Any]) -> Measure | None:
    """Measure a metric over its items; None where the harness sums it up in another way."""
    is_lower_better = not task.higher_is_better()[metric]
    aggregation = task.aggregation()[metric]
    if aggregation is bits_per_byte:
        return Measure(
            numerators=[-nats / float(np.log(2)) for nats, _ in values],
            denominators=[float(n_bytes) for _, n_bytes in values],
            unit="bits/byte",
            is_lower_better=is_lower_better,
        )
    if aggregation is mean and all(isinstance(value, int | float) for value in values):
        unit = SHARE if set(values) <= {0, 1} else "mean"  # of what is right or wrong
        return Measure.mean(values, unit=unit, is_lower_better=is_lower_better)
    return None


@contextmanager
def quiet_and_offline() -> Iterator[None]:
    """Let neither the harness' log nor the network in."""
    logger = logging.getLogger("lm_eval")
    switches = [(huggingface_hub.constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE")]
    before = [getattr(module, name) for module, name in switches]
    level = logger.level
    logger.setLevel(logging.ERROR)
    for module, name in switches:
        setattr(module, name, True)
    try:
        yield
    finally:
        logger.setLevel(level)
        for (module, name), value in zip(switches, before, strict=True):
            setattr(module, name, value)


@contextmanager
def own_random() -> Iterator[None]:
    """Seed all generators, and give them back as they were: tasks draw from the global ones."""
    python, arrays = random.getstate(), np.random.get_state()
    device = local_device()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_everything(SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
