"""What an evaluation is: options, a measurement, and a table for a person."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from rich.console import Console

from evals.contract import Result, prove_writable, save_results, to_json
from evals.examinee import Examinee, open_examinee
from evals.options import Options
from helix import distributed

OwnOptions = TypeVar("OwnOptions", bound=Options)


@dataclass(frozen=True)
class Evaluation(Generic[OwnOptions]):
    """One evaluation.

    Attributes:
        name: As on the command line.
        options: What it is told.
        measure: Takes the figures. All ranks call it and get the same result; it draws no random
            number that is not its own.
        show: Prints them.
    """

    name: str
    options: type[OwnOptions]
    measure: Callable[[Examinee, OwnOptions], Result]
    show: Callable[[Result, Console], None]


def evaluate(evaluation: Evaluation[OwnOptions], options: OwnOptions) -> Result:
    """Evaluate one subject; print the figures and write them where that is asked for.

    Raises:
        ConfigError: There is no such run, model or checkpoint, or the file cannot be written.
        DataError: A set is missing or damaged.
    """
    prove_place(options)
    result = take(evaluation, open_examinee(options), options)
    if distributed.is_main():
        publish([(evaluation, result)], options)
    return result


def take(evaluation: Evaluation[OwnOptions], examinee: Examinee, options: OwnOptions) -> Result:
    """Take an evaluation's figures; what is to be known of the examinee is told with them."""
    result = evaluation.measure(examinee, options)
    broken = [name for name, own in result.measures.items() if not math.isfinite(own.value)]
    told = f"{broken[0]} is not a number, nor are {len(broken) - 1} others" if broken else ""
    return replace(
        result, warnings=[*examinee.warnings, *result.warnings, *([told] if told else [])]
    )


def prove_place(options: Options) -> None:
    """Prove, before anything is measured, that the file which was asked for can be written."""
    if options.out and distributed.is_main():
        prove_writable(options.out)


def publish(found: Sequence[tuple[Evaluation, Result]], options: Options) -> None:
    """Write results to their file, and show them though that fails: they were dear."""
    try:
        if options.out:
            save_results([result for _, result in found], options.out)
    finally:
        print_results(found, is_json=options.json)


def print_results(found: Sequence[tuple[Evaluation, Result]], *, is_json: bool) -> None:
    """Print results, for a person or a machine."""
    if is_json:
        sys.stdout.write(to_json([result for _, result in found]))
        return
    console = Console()
    for evaluation, result in found:
        evaluation.show(result, console)
        for warning in result.warnings:
            console.print(f"beware: {warning}", soft_wrap=True, markup=False)
