"""All evaluations of one subject: one command, one JSON."""

import importlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from evals import EVALUATIONS, SUITE
from evals.contract import Result
from evals.evaluation import Evaluation, evaluate, prove_place, publish, take
from evals.examinee import open_examinee
from evals.options import SHARED_BY_ALL, Options
from helix import distributed
from helix.config import ConfigError, load, load_options, parse_words, split_words, suggestion
from helix.presets import PRESETS


@dataclass(frozen=True, kw_only=True)
class SuiteOptions(Options):
    """Options of `helix evaluate` without a name.

    Attributes:
        tasks: Names of evaluations with commas between them; an option of one is given as
            NAME.option=value.
    """

    tasks: str = ",".join(SUITE)

    @property
    def names(self) -> list[str]:
        """The evaluations to run, in order."""
        return self.tasks.split(",")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.names:
            refuse_unknown(name, EVALUATIONS)


def read(arguments: Sequence[str]) -> Callable[[], object]:
    """Read the words of `helix evaluate`: one evaluation by name, or the suite; give what runs it.

    What an earlier job may have yet to write is not opened.

    Raises:
        ConfigError: There is no such evaluation, or a word is wrong.
    """
    name, *words = arguments or [""]
    if not name or "=" in name:
        return partial(run_suite, *read_suite(arguments))
    refuse_unknown(name, [*EVALUATIONS, *OTHERS])
    if name in OTHERS:
        return OTHERS[name](words)
    evaluation = find(name)
    return partial(run_one, evaluation, load_options(evaluation.options, words))


def read_comparison(words: Sequence[str]) -> Callable[[], object]:
    """Read what compares two results, if they are of one set."""
    from evals.compare import CompareOptions, print_comparison

    paths = [word for word in words if "=" not in word or Path(word).is_file()]
    options = load_options(CompareOptions, [word for word in words if word not in paths])
    return partial(print_comparison, paths, is_json=options.json)


def read_throughput(words: Sequence[str]) -> Callable[[], object]:
    """Read what measures speed and memory."""
    from evals.throughput import ThroughputConfig, evaluate

    options, rest = split_words(words, ThroughputConfig)
    file = parse_words(rest).get("config")
    if file and not Path(file).exists():
        return lambda: evaluate(load(rest, PRESETS), options)
    return partial(evaluate, load(rest, PRESETS), options)


# Beside those of EVALUATIONS, which take a model and give a Result.
OTHERS: dict[str, Callable[[Sequence[str]], Callable[[], object]]] = {
    "compare": read_comparison,
    "throughput": read_throughput,
}


def run_one(evaluation: Evaluation, options: Options) -> list[Result]:
    """Run one evaluation."""
    distributed.join()
    return [evaluate(evaluation, options)]


def read_suite(arguments: Sequence[str]) -> tuple[SuiteOptions, list[tuple[Evaluation, Options]]]:
    """Choose the evaluations that are named, or all, each with its options."""
    words = parse_words(arguments)
    own = {name: value for name, value in words.items() if "." not in name}
    options = load_options(SuiteOptions, [f"{name}={value}" for name, value in own.items()])
    shared = {field.name for field in fields(Options)}
    chosen: list[tuple[Evaluation, Options]] = []
    for name in options.names:
        evaluation = find(name)
        told = {key: value for key, value in own.items() if key in shared}
        for key, value in words.items():
            task, _, option = key.partition(".")
            if task == name and option in SHARED_BY_ALL:
                raise ConfigError(f"{key}: the evaluations share one {option}; give {option}=...")
            if task == name:
                told[option] = value
            elif option and task not in options.names:
                raise ConfigError(f"{key}: {task} is none of tasks={options.tasks}")
        given = [f"{key}={value}" for key, value in told.items()]
        chosen.append((evaluation, load_options(evaluation.options, given)))
    return options, chosen


def run_suite(options: SuiteOptions, chosen: Sequence[tuple[Evaluation, Options]]) -> list[Result]:
    """Run evaluations; the model is loaded once."""
    distributed.join()
    prove_place(options)
    examinee = open_examinee(options)
    found = [(each, take(each, examinee, own_options)) for each, own_options in chosen]
    if distributed.is_main():
        publish(found, options)
    return [result for _, result in found]


def find(name: str) -> Evaluation:
    """Import an evaluation."""
    return importlib.import_module(EVALUATIONS[name]).EVALUATION


def refuse_unknown(name: str, known: Collection[str]) -> None:
    """Refuse a name that is no evaluation's."""
    if name not in known:
        raise ConfigError(f"evaluate {name}: no such evaluation{suggestion(name, list(known))}")
