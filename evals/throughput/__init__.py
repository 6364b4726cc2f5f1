"""Throughput: what a model costs in time and memory here, in one run, beside library layers.

    helix evaluate throughput preset=hybrid_0_9b sections=step,parts out=FILE.json
    torchrun --standalone --nproc_per_node 2 -m helix evaluate throughput sections=zero ...

Steps are those of a plain loop on random tokens in packed rows of several documents, except where a
section trains; each time is a median. SECTIONS says which module measures what.
"""

import contextlib
import sys
from pathlib import Path

from evals.contract import prove_writable
from evals.throughput.bench import Bench, Section
from evals.throughput.cold import FIRST_STEP
from evals.throughput.decode import DECODE
from evals.throughput.options import SECTION_NAMES, ThroughputConfig
from evals.throughput.parts import PARTS_SECTION
from evals.throughput.processes import is_first, ranks_started
from evals.throughput.report import Report
from evals.throughput.stacks import LIBRARY
from evals.throughput.training import ENGINE, PRECISION
from evals.throughput.whole import CONTEXT, RECOMPUTE, STEP, context_lengths
from evals.throughput.zero import ZERO
from helix.config import ConfigError, RunConfig
from helix.distributed import local_device

__all__ = ["SECTIONS", "ThroughputConfig", "evaluate", "throughput"]

SECTIONS: dict[str, Section] = {
    "step": STEP,
    "library": LIBRARY,
    "parts": PARTS_SECTION,
    "recompute": RECOMPUTE,
    "context": CONTEXT,
    "decode": DECODE,
    "engine": ENGINE,
    "precision": PRECISION,
    "first_step": FIRST_STEP,
    "zero": ZERO,
}
assert tuple(SECTIONS) == SECTION_NAMES


def throughput(run: RunConfig, options: ThroughputConfig) -> Report:
    """Measure the sections that are asked for; all ranks call it.

    Raises:
        ConfigError: The options do not fit the run or the number of ranks.
    """
    bench = Bench(run, options, local_device())
    check(bench)
    with contextlib.redirect_stdout(sys.stderr):  # where DeepSpeed's words belong, beside JSON
        report = Report(bench)
        for name in options.names():
            report.fill(name, SECTIONS[name])
    return report


def check(bench: Bench) -> None:
    """Refuse what could not be measured, before minutes are spent on the rest."""
    options = bench.options
    if options.out and not Path(options.out).absolute().parent.is_dir():
        raise ConfigError(f"out={options.out}: its folder does not exist")
    if options.out and is_first():
        prove_writable(options.out)
    if ranks_started() > 1 and options.names() != ["zero"]:
        raise ConfigError(
            f"sections={options.sections}: of several ranks only zero can be asked; start the "
            "others without a launcher"
        )
    for n_context in context_lengths(bench) if "context" in options.names() else []:
        try:
            bench.run.model.check(n_context)
        except ValueError as error:
            raise ConfigError(f"contexts: {error}") from error


def evaluate(run: RunConfig, options: ThroughputConfig) -> None:
    """Measure, print, and write the JSON file that was asked for.

    Raises:
        ConfigError: See `throughput`; or a row could not be measured, after all others were.
    """
    report = throughput(run, options)
    if not is_first():
        return
    if options.json:
        sys.stdout.write(report.to_json())
    else:
        report.print(SECTIONS)
    if report.failed():
        raise ConfigError(f"throughput: not measured: {'; '.join(report.failed())}")
