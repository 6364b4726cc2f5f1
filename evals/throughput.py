"""Throughput: what a model costs in time and memory here, part by part, in one run.

    helix evaluate throughput preset=hybrid_0_9b sections=step,parts out=FILE.json

A plain loop on random tokens in packed rows of several documents; each figure is a median. MFU
counts model FLOPs, three times the forward's; HFU adds what recomputation runs again: one more
forward of the blocks under recompute=full. Selective recomputation repeats no product.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console
from rich.table import Table

from helix import config as configs
from helix import doctor
from helix.batch import Batch
from helix.config import ConfigError, RunConfig
from helix.distributed import local_device
from helix.models import build_model
from helix.models.base import LanguageModel
from helix.models.hybrid import HybridConfig
from helix.models.stack import Recompute
from helix.training.flops import peak_tflops, training_flops_per_token

Row = dict[str, float | str]
N_DOCUMENTS = 3  # of a row: the kernels must tell documents apart while they are timed
N_DECODED = 16


@dataclass(frozen=True, kw_only=True)
class ThroughputConfig:
    """Options of `helix evaluate throughput`; anything else on the line changes the preset.

    Attributes:
        sections: Which tables to make, with commas: step, parts, recompute, context, decode.
        contexts: Lengths for context and decode, with commas; empty means a quarter of the
            preset's, the preset's, and four times it.
        n_repeats: Timings of which the median is taken, after two that are not counted.
        peak_tflops: Dense matrix peak to measure MFU against; 0 looks the device up.
        out: JSON file to write.
        json: Print JSON instead of tables.
    """

    sections: str = "step,parts"
    contexts: str = ""
    n_repeats: int = 5
    peak_tflops: float = 0.0
    out: str = ""
    json: bool = False

    def __post_init__(self) -> None:
        for name in self.sections.split(","):
            if name not in SECTIONS:
                raise ValueError(f"sections={self.sections}: {name!r} is none of {list(SECTIONS)}")
        if self.n_repeats < 1:
            raise ValueError(f"n_repeats={self.n_repeats}: give at least 1")
        if not all(word.isdigit() and int(word) for word in self.contexts.split(",") if word):
            raise ValueError(f"contexts={self.contexts}: give lengths in tokens, as in 4096,16384")


@dataclass(frozen=True)
class Bench:
    """A run to measure and how."""

    run: RunConfig
    options: ThroughputConfig
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """What weights and activations are kept in."""
        return torch.bfloat16 if self.run.training.precision == "bf16" else torch.float32

    def model(self, config: HybridConfig) -> LanguageModel:
        """Build a model of random weights on the device."""
        return build_model(config, seed=0, device=self.device).to(self.dtype)

    def batch(self, n_rows: int, n_context: int) -> Batch:
        """Draw rows of several documents."""
        generator = torch.Generator().manual_seed(0)
        shape = n_rows, n_context + 1
        ids = torch.randint(self.run.model.n_vocab, shape, generator=generator)
        documents = torch.arange(n_context) * N_DOCUMENTS // n_context
        return Batch(
            tokens=ids[:, :-1].contiguous(),
            targets=ids[:, 1:].contiguous(),
            document_ids=documents.expand(n_rows, -1).contiguous(),
        ).to(self.device)

    def median_ms(self, work: Callable[[], Any]) -> float:
        """Time some work, the device's own end of it included."""
        times = []
        for _ in range(2 + self.options.n_repeats):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            times.append(1e3 * (time.perf_counter() - started))
        return statistics.median(times[2:])

    def wait(self) -> None:
        """Let the device finish."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_gib(self, work: Callable[[], Any]) -> float:
        """Measure the most memory that some work allocates; not known on a CPU."""
        if self.device.type != "cuda":
            return float("nan")
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        return torch.cuda.max_memory_allocated(self.device) / 2**30

    def contexts(self) -> list[int]:
        """List the lengths to try."""
        n = self.run.data.n_context
        words = [word for word in self.options.contexts.split(",") if word]
        return [int(word) for word in words] or [n // 4, n, 4 * n]


def step_row(bench: Bench, config: HybridConfig, n_rows: int, n_context: int) -> Row:
    """Time forward and backward of one micro-batch."""
    try:
        config.check(n_context)
    except ValueError as error:
        raise ConfigError(f"contexts: {error}") from error
    model, batch = bench.model(config), bench.batch(n_rows, n_context)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        (model(batch).loss / batch.n_targets).backward()

    ms = bench.median_ms(step)
    tokens_per_s = n_rows * n_context / ms * 1e3
    peak = bench.options.peak_tflops or peak_tflops(bench.device) or float("nan")
    flops = training_flops_per_token(config, n_context)
    again = recomputed_flops(config, n_context)
    return {
        "rows": n_rows,
        "n_context": n_context,
        "recompute": config.recompute,
        "step_ms": ms,
        "tokens_per_s": tokens_per_s,
        "mfu": flops * tokens_per_s / peak / 1e12,
        "hfu": (flops + again) * tokens_per_s / peak / 1e12,
        "peak_gib": bench.peak_gib(step),
    }


def recomputed_flops(config: HybridConfig, n_context: int) -> int:
    """Count the FLOPs per token that the backward pass runs again."""
    if config.recompute != "full":
        return 0
    mlp = 6 * config.d_model * config.d_ffn
    return sum(
        mlp + config.mixer(kind).flops_per_token(config.d_model, n_context)
        for kind, is_recomputed in zip(config.kinds(), config.recomputed(), strict=True)
        if is_recomputed
    )


def measure_step(bench: Bench) -> list[Row]:
    """Time the preset as it stands."""
    run = bench.run
    return [step_row(bench, run.model, run.training.micro_batch_rows, run.data.n_context)]


def measure_recompute(bench: Bench) -> list[Row]:
    """Time the preset with each kind of recomputation."""
    run = bench.run
    plain = replace(run.model, recompute="none", recompute_every=1, recompute_kinds="")
    return [
        step_row(bench, config, run.training.micro_batch_rows, run.data.n_context)
        for config in (replace(plain, recompute=how) for how in get_args(Recompute))
    ]


def measure_context(bench: Bench) -> list[Row]:
    """Time rows of several lengths, at the preset's number of tokens a step."""
    run = bench.run
    n_tokens = run.training.micro_batch_rows * run.data.n_context
    return [step_row(bench, run.model, max(1, n_tokens // n), n) for n in bench.contexts()]


def measure_parts(bench: Bench) -> list[Row]:
    """Time forward and backward of one block of each kind, of its parts, and of the head."""
    run = bench.run
    model = bench.model(run.model)
    batch = bench.batch(run.training.micro_batch_rows, run.data.n_context)
    x = torch.randn(*batch.tokens.shape, run.model.d_model, device=bench.device, dtype=bench.dtype)
    x.requires_grad_()
    given = torch.randn_like(x)

    def passes(part: Callable[..., Any], *rest: Any) -> Callable[[], None]:
        def work() -> None:
            y = part(x, *rest)
            y = y[0] if isinstance(y, tuple) else y
            y.backward(given if y.ndim else None)

        return work

    rows: list[Row] = []
    for kind in dict.fromkeys(run.model.kinds()):
        block = model.get_submodule(f"stack.blocks.{run.model.kinds().index(kind)}")
        ids = batch.document_ids
        for name in ("block", "mixer", "mlp", "mlp_norm"):
            part = block if name == "block" else block.get_submodule(name)
            work = passes(part, ids) if name in ("block", "mixer") else passes(part)
            rows.append({"kind": kind, "part": name, "fwd_bwd_ms": bench.median_ms(work)})
    head = passes(model.get_submodule("head"), batch.targets)
    rows.append({"kind": "head", "part": "head and loss", "fwd_bwd_ms": bench.median_ms(head)})
    return rows


@torch.no_grad()
def measure_decode(bench: Bench) -> list[Row]:
    """Time reading a prompt of each length, then one token at a time from its state."""
    model = bench.model(bench.run.model).eval()
    rows: list[Row] = []
    for n_context in bench.contexts():
        tokens = bench.batch(1, n_context).tokens
        prefill_ms = bench.median_ms(lambda tokens=tokens: model.predict(tokens))
        _, state = model.predict(tokens)

        def decode(tokens: torch.Tensor = tokens, state: Any = state) -> None:
            for _ in range(N_DECODED):
                _, state = model.predict(tokens[:, -1:], state)

        rows.append(
            {
                "n_context": n_context,
                "prefill_tokens_per_s": n_context / prefill_ms * 1e3,
                "decode_tokens_per_s": N_DECODED / bench.median_ms(decode) * 1e3,
                "state_bytes": sum(x.nbytes for layer in state for x in layer),
            }
        )
    return rows


SECTIONS: dict[str, Callable[[Bench], list[Row]]] = {
    "step": measure_step,
    "parts": measure_parts,
    "recompute": measure_recompute,
    "context": measure_context,
    "decode": measure_decode,
}


def throughput(run: RunConfig, options: ThroughputConfig) -> dict[str, Any]:
    """Measure the sections that are asked for.

    Returns:
        The device, versions, kernels taken, settings, and a list of rows for each section.
    """
    bench = Bench(run, options, local_device())
    found = doctor.examine()
    return {
        "device": found.device,
        "n_threads": found.n_threads,
        "packages": found.packages,
        "kernels": {
            name: next(c.backend for c in rows if c.available)
            for name, rows in found.kernels.items()
        },
        "command": f"helix evaluate throughput {' '.join(sys.argv[3:])}".strip(),
        "options": asdict(options),
        "run": configs.to_dict(run),
        "sections": {name: SECTIONS[name](bench) for name in options.sections.split(",")},
    }


def evaluate(run: RunConfig, options: ThroughputConfig) -> None:
    """Measure, print, and write the JSON file that was asked for."""
    if options.out and not Path(options.out).absolute().parent.is_dir():
        raise ConfigError(f"out={options.out}: its folder does not exist")
    result = throughput(run, options)
    text = json.dumps(without_nan(result), indent=1) + "\n"
    if options.out:
        configs.write_whole(Path(options.out), text)
    if options.json:
        sys.stdout.write(text)
        return
    console = Console()
    console.print(f"{run.preset} on {result['device']}, {run.training.precision}")
    for name, rows in result["sections"].items():
        table = Table(*rows[0], title=name)
        for row in rows:
            table.add_row(*map(as_cell, row.values()))
        console.print(table)


def as_cell(value: float | str) -> str:
    """Write a figure for a person: four digits, and a dash where it is not known."""
    if not isinstance(value, float):
        return str(value)
    return "-" if value != value else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def without_nan(tree: Any) -> Any:
    """Replace what is not known by null: JSON has no NaN."""
    if isinstance(tree, dict):
        return {key: without_nan(value) for key, value in tree.items()}
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        return [without_nan(value) for value in tree]
    return None if isinstance(tree, float) and tree != tree else tree
