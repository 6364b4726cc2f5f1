"""Search launch constants of our kernels on this GPU, and write them as a file: see kernels.tuned.

Each family of kernels runs its share of a preset's step, at the preset's widths and micro-batch.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from helix import kernels
from helix.config import ConfigError, RunConfig, suggestion, write_whole
from helix.doctor import version_of
from helix.kernels import tuned
from helix.kernels.tuned import workloads
from helix.kernels.tuned.bench import Bench, to_fields
from helix.kernels.tuned.candidates import CANDIDATES
from helix.kernels.tuned.search import Trial, descend

PRESET = "hybrid_0_9b"
KINDS = {"gla": "gla", "ssd": "mamba2", "conv": "mamba2", "sparse": "sparse"}  # of mixer
TABLE_WIDTHS = (64, 128, 256)  # of sparse attention's heads, rounded up


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Options of `helix doctor tune`; anything else on the line changes the preset.

    Attributes:
        out: The file to write.
        kernels: Families to search, with commas between them; empty means all that the preset has.
        json: Print JSON instead of a table.
    """

    out: str = ""
    kernels: str = ""
    json: bool = False

    def __post_init__(self) -> None:
        for family in self.families():
            if family not in CANDIDATES:
                hint = suggestion(family, CANDIDATES)
                raise ValueError(f"kernels={self.kernels}: no kernels {family!r}{hint}")

    def families(self) -> list[str]:
        """Give the families that were asked for."""
        return self.kernels.split(",") if self.kernels else []


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What was found of one family.

    Attributes:
        values: All constants that were searched, as a file holds them.
        chosen: The same, as the kernels take them.
    """

    family: str
    values: dict[str, Any]
    chosen: dict[str, Any]
    trials: list[Trial] = field(default_factory=list)


def tune(run: RunConfig, options: TuneConfig) -> None:
    """Search, write the file and print what was tried.

    Raises:
        ConfigError: There is no GPU, or kernels cannot be tuned here.
    """
    if not torch.cuda.is_available():
        raise ConfigError("doctor tune: no CUDA device; run this on the GPU that is to be tuned")
    if not options.out:
        raise ConfigError("out: missing; give out=FILE.json")
    if not Path(options.out).parent.is_dir():
        raise ConfigError(f"out={options.out}: there is no folder {Path(options.out).parent}")
    families, below = check_families(run, options), values_in_effect()
    found = []
    with Progress(console=Console(stderr=True)) as bar:
        for family in families:
            found.append(tune_family(run, family, bar))
            torch.cuda.empty_cache()
    record = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": version_of("triton"),
        "preset": run.preset,
        "command": " ".join(["helix", *sys.argv[1:]]),
        "values": merge(below, {tuning.family: tuning.values for tuning in found}),
    }
    write_whole(Path(options.out), json.dumps(record, indent=1) + "\n")
    if options.json:
        trials = [describe(trial, tuning) for tuning in found for trial in tuning.trials]
        json.dump(record | {"trials": trials}, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    console = Console()
    console.print(table_of(found))
    console.print(f"{options.out}: in effect where {tuned.VARIABLE}={options.out}", soft_wrap=True)


def check_families(run: RunConfig, options: TuneConfig) -> list[str]:
    """Give the families to search; see `tune` for errors."""
    kinds = run.model.kinds()
    has = [name for name in CANDIDATES if name not in KINDS or KINDS[name] in kinds]
    families = options.families() or has
    for family in families:
        if family not in has:
            raise ConfigError(f"kernels={family}: preset={run.preset} has none; has {has}")
        ours = next(row for row in kernels.candidates(family) if row.backend == "triton")
        if not ours.available:
            raise ConfigError(f"kernels={family}: not available here: {ours.reason}")
    return families


def tune_family(run: RunConfig, family: str, bar: Progress) -> Tuning:
    """Search the constants of one family, and leave them as they were."""
    n_rows, n_tokens = run.training.micro_batch_rows, run.data.n_context
    rows = workloads.Rows(n_rows, n_tokens, torch.device("cuda"), torch.bfloat16)
    torch.manual_seed(run.seed)
    task = bar.add_task(family, total=None)
    try:
        bench = Bench(family, workloads_of(run)[family](rows), width=table_width(run))
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"training.micro_batch_rows={n_rows}: {family} needs more memory than there is; give "
            "fewer rows"
        ) from error
    bar.update(task, total=bench.n_trials())
    trials: list[Trial] = []

    def report(trial: Trial) -> None:
        trials.append(trial)
        bar.update(task, description=f"{family} {trial.constant}", advance=1)

    try:
        chosen = descend(
            bench.start,
            bench.candidates,
            check=bench.check,
            time_ms=bench.time_ms,
            report=report,
        )
    finally:
        bench.place(bench.start)
    return Tuning(family=family, values=bench.to_json(chosen), chosen=chosen, trials=trials)


def workloads_of(run: RunConfig) -> dict[str, Callable[[workloads.Rows], workloads.Workload]]:
    """Give each family's workload at the preset's widths."""
    model, d_model = run.model, run.model.d_model
    mamba2, gla, sparse = model.mamba2, model.gla, model.sparse
    n_channels = mamba2.n_channels(d_model)
    return {
        "gla": partial(
            workloads.gla,
            n_heads=gla.n_heads,
            d_key=gla.d_key(d_model) // gla.n_heads,
            d_value=gla.d_value(d_model) // gla.n_heads,
        ),
        "ssd": partial(
            workloads.ssd,
            n_heads=mamba2.n_heads(d_model),
            d_head=mamba2.d_head,
            n_groups=mamba2.n_groups,
            d_state=mamba2.d_state,
        ),
        "conv": partial(
            workloads.conv,
            n_channels=n_channels,
            n_taps=mamba2.d_conv,
            n_beside=mamba2.d_inner(d_model),
        ),
        "sparse": partial(
            workloads.sparse,
            n_heads=sparse.n_heads,
            n_kv_heads=sparse.n_kv(),
            d_head=sparse.d_head_of(d_model),
            window_tokens=sparse.window_tokens,
            n_global=sparse.n_global,
        ),
        "cross_entropy": partial(
            workloads.cross_entropy, n_vocab=model.n_vocab, chunk_rows=model.loss_chunk_rows
        ),
    }


def table_width(run: RunConfig) -> int:
    """Give the width that tables by width of a head have for the preset's."""
    d_head = run.model.sparse.d_head_of(run.model.d_model)
    return next((width for width in TABLE_WIDTHS if d_head <= width), TABLE_WIDTHS[-1])


def values_in_effect() -> dict[str, Any]:
    """Give what the file in effect holds, so that a search of some families keeps the others."""
    file = tuned.file_in_effect()
    return {} if file is None else tuned.read(file)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay nested values over others."""
    nested = {
        key: merge(below[key], value)
        for key, value in above.items()
        if isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
    }
    return {**below, **above, **nested}


def describe(trial: Trial, tuning: Tuning) -> dict[str, Any]:
    """Give a trial as plain values."""
    return {
        "constant": f"{tuning.family}.{trial.constant}",
        "value": to_fields(trial.value),
        "ms": None if trial.refusal else trial.ms,
        "outcome": trial.refusal or ("kept" if is_kept(trial, tuning) else ""),
    }


def is_kept(trial: Trial, tuning: Tuning) -> bool:
    """Tell whether a trial's value is the one chosen."""
    return trial.value == tuning.chosen[trial.constant]


def table_of(found: list[Tuning]) -> Table:
    """Show all trials; times are of the whole family, except of the loss."""
    table = Table("constant", "value", "ms", "outcome")
    for tuning in found:
        for trial in tuning.trials:
            row = describe(trial, tuning)
            numbers = row["value"]
            if isinstance(numbers, dict):
                numbers = " ".join(f"{key}={value}" for key, value in numbers.items())
            ms = "" if row["ms"] is None else f"{row['ms']:.3f}"
            style = "bold" if row["outcome"] == "kept" else None
            table.add_row(row["constant"], str(numbers), ms, row["outcome"], style=style)
    return table
