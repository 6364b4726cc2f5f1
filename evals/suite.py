"""All evaluations of one subject: one command, one JSON."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

from evals import EVALUATIONS, SUITE
from evals.contract import Result
from evals.evaluation import Evaluation, evaluate, publish, take
from evals.examinee import open_examinee
from evals.options import Options
from helix import distributed
from helix.config import ConfigError, load_options, parse_words, suggestion


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
            refuse_unknown(name)


def run(arguments: Sequence[str]) -> list[Result]:
    """Run one evaluation by name, or the suite.

    Raises:
        ConfigError: There is no such evaluation, or a word is wrong.
    """
    if arguments and "=" not in arguments[0]:
        name, *words = arguments
        refuse_unknown(name)
        evaluation = find(name)
        distributed.join()
        return [evaluate(evaluation, load_options(evaluation.options, words))]
    return run_suite(arguments)


def run_suite(arguments: Sequence[str]) -> list[Result]:
    """Run the evaluations that are named, or all; the model is loaded once."""
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
            if task == name:
                told[option] = value
            elif option and task not in options.names:
                raise ConfigError(f"{key}: {task} is none of tasks={options.tasks}")
        given = [f"{key}={value}" for key, value in told.items()]
        chosen.append((evaluation, load_options(evaluation.options, given)))
    distributed.join()
    examinee = open_examinee(options)
    found = [(each, take(each, examinee, own_options)) for each, own_options in chosen]
    if distributed.is_main():
        publish(found, options)
    return [result for _, result in found]


def find(name: str) -> Evaluation:
    """Import an evaluation."""
    return importlib.import_module(EVALUATIONS[name]).EVALUATION


def refuse_unknown(name: str) -> None:
    """Refuse a name that is no evaluation's."""
    if name not in EVALUATIONS:
        raise ConfigError(f"evaluate {name}: no such evaluation{suggestion(name, EVALUATIONS)}")
