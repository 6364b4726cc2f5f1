"""ZeRO stages side by side on the ranks that torchrun started, and one GPU alone."""

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from evals.throughput.bench import Bench, Case, Row, Section, ratio
from evals.throughput.data import LoaderOf, training_data
from evals.throughput.loops import engine_run, take_step, trainer_of
from evals.throughput.processes import is_first, last_line, ranks_started, run_alone
from helix import config as configs
from helix import distributed
from helix.config import ConfigError

N_STEPS = 100
N_WARM = 3
N_ALONE = N_WARM + 10  # steps of one GPU alone, whose speed the others are held to
TIMEOUT_S = 400


def zero_cases(bench: Bench) -> Iterator[Case]:
    """Train under each stage on the same rows; before that, one GPU alone where there are more."""
    run, n_ranks = bench.run, ranks_started()
    n_steps = bench.options.n_steps or N_STEPS
    if n_steps <= N_WARM:
        raise ConfigError(f"n_steps={n_steps}: zero needs more than {N_WARM}")
    if n_ranks > 1:
        yield Case({"ranks": 1, "stage": 1}, partial(row_alone, bench, n_steps))
    n_rows = run.training.micro_batch_rows * n_ranks
    with training_data(run, n_tokens=n_steps * n_rows * run.data.n_context) as loader_of:
        for stage in map(int, bench.options.stages.split(",")):
            measure = partial(stage_row, bench, stage, loader_of, n_steps)
            yield Case({"ranks": n_ranks, "stage": stage}, measure)


def stage_row(bench: Bench, stage: int, loader_of: LoaderOf, n_steps: int) -> Row:
    """Train under one stage, and time the steps after the first ones."""
    run = engine_run(bench.run, n_micro_batches=ranks_started(), n_steps=n_steps)
    run = replace(run, training=replace(run.training, deepspeed=f"zero{stage}"))
    losses: list[float] = []
    with trainer_of(run, bench.host_model(), loader_of(run.training.batch_rows)) as trainer:
        timing = bench.timing(
            lambda: losses.append(take_step(trainer)), n_warm=N_WARM, n_laps=n_steps - N_WARM
        )
    tokens_per_s = 1e3 * run.training.micro_batch_rows * run.data.n_context / timing.ms
    return {
        "step_ms": timing.ms,
        "tokens_per_s_a_rank": tokens_per_s,
        "mfu": bench.mfu(tokens_per_s),
        "peak_gib": most_of_any_rank(timing.peak_gib),
        "n_steps": n_steps,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "losses": losses,
    }


def most_of_any_rank(gib: float) -> float:
    """Give the largest of the ranks' memories."""
    if gib != gib:
        return gib
    return distributed.max_over_ranks(int(gib * 2**30)) / 2**30


def row_alone(bench: Bench, n_steps: int) -> Row:
    """Run stage 1 in a process of its own that sees one GPU; the other ranks wait for rank 0."""
    if not is_first():
        return {}
    training = replace(bench.run.training, batch_rows=bench.run.training.micro_batch_rows)
    with tempfile.TemporaryDirectory() as folder:
        config, out = Path(folder) / "run.yaml", Path(folder) / "out.json"
        configs.save(replace(bench.run, training=training), config)
        words = [f"config={config}", "sections=zero", "stages=1", f"out={out}"]
        words += [f"n_steps={min(n_steps, N_ALONE)}", f"peak_tflops={bench.options.peak_tflops}"]
        command = [sys.executable, "-m", "helix", "evaluate", "throughput", *words]
        done = run_alone(command, timeout_s=TIMEOUT_S)
        if done.returncode or not out.exists():
            return {"error": f"one rank alone failed: {last_line(done.stdout)}"}
        (row,) = json.loads(out.read_text())["sections"]["zero"]
        del row["off_first_stage"]  # it was the first of its table
    return {key: float("nan") if value is None else value for key, value in row.items()}


def compare_stages(rows: list[Row]) -> None:
    """Hold each row's losses to the first stage's, and its speed to that of one rank alone."""
    n_ranks = max((int(str(row["ranks"])) for row in rows), default=1)
    together = [row for row in rows if row["ranks"] == n_ranks]
    alone = [row for row in rows if row["ranks"] != n_ranks]
    for row in together:
        row["off_first_stage"] = largest_distance(row["losses"], together[0]["losses"])
        for other in alone:
            row["of_one_rank"] = ratio(row, other, "tokens_per_s_a_rank")


def largest_distance(ours: Any, theirs: Any) -> float:
    """Give the largest difference between two curves of losses."""
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


ZERO = Section(
    zero_cases,
    compare_stages,
    note="start it by torchrun; micro-batch and rows alike, one micro-batch a rank and step; "
    "off_first_stage: largest difference of any step's loss from the first stage's, in nats a "
    "token; of_one_rank: tokens/s a rank over those of one rank alone",
)
