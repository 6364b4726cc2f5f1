"""The bench: builds models and batches, and times work on the device.

A time is the median over laps: from the end of one call to the end of the next, on the device's own
clock, with nothing waited for in between, as in a training loop.
"""

import functools
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from evals.throughput.options import ThroughputConfig
from helix.batch import Batch
from helix.config import RunConfig
from helix.models import build_model, build_on_meta
from helix.models.base import LanguageModel
from helix.models.hybrid import HybridConfig
from helix.training.flops import peak_tflops, training_flops_per_token, utilisation
from helix.training.optimizer import is_time_scale

Row = dict[str, float | str | list[float]]
N_DOCUMENTS = 3  # of a row: the kernels must tell documents apart while they are timed
N_WARM = 2  # calls before a clock starts: kernels are compiled and the allocator has its blocks


@dataclass(frozen=True)
class Case:
    """A row to come: what it is of, and how to measure the rest of it."""

    labels: Row
    measure: Callable[[], Row]


@dataclass(frozen=True)
class Section:
    """A table to come.

    Attributes:
        cases: Gives the rows to measure, one after the other.
        finish: Adds what can only be told when all rows are there, to those that were measured.
        note: What a reader of the table must know.
    """

    cases: "Callable[[Bench], Iterable[Case]]"
    finish: Callable[[list[Row]], None] = lambda rows: None
    note: str = ""


@dataclass(frozen=True)
class Timing:
    """A median, and the most memory that was allocated meanwhile; NaN on a CPU."""

    ms: float
    peak_gib: float


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

    @property
    def is_gpu(self) -> bool:
        """Tell whether there is a GPU to measure."""
        return self.device.type == "cuda"

    @property
    def peak(self) -> float | None:
        """Give the peak in TFLOP/s that utilisation is measured against."""
        return self.options.peak_tflops or peak_tflops(self.device)

    def mfu(self, tokens_per_s: float) -> float:
        """Give the share of the peak at which the run's model is trained; see flops.FORMULA."""
        flops = training_flops_per_token(self.run.model, self.run.data.n_context)
        return utilisation(flops, tokens_per_s=tokens_per_s, peak=self.peak)

    def model(self, config: HybridConfig) -> LanguageModel:
        """Build a model of random weights on the device."""
        return place(config, device=self.device, dtype=self.dtype)

    def host_model(self) -> LanguageModel:
        """Build the run's model on the CPU in float32, as DeepSpeed takes it."""
        return place(self.run.model, device=torch.device("cpu"), dtype=torch.float32)

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

    def timing(
        self, work: Callable[[], Any], *, n_warm: int = N_WARM, n_laps: int | None = None
    ) -> Timing:
        """Time some work and measure its memory; `n_repeats` laps where no number is given."""
        for _ in range(n_warm):
            work()
        self.wait()
        if self.is_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        laps = self.laps_ms(work, n_laps or self.options.n_repeats)
        peak = torch.cuda.max_memory_allocated(self.device) / 2**30 if self.is_gpu else float("nan")
        return Timing(ms=statistics.median(laps), peak_gib=peak)

    def laps_ms(self, work: Callable[[], Any], n_laps: int) -> list[float]:
        """Time calls in a row, each from the end of the one before it."""
        if not self.is_gpu:
            ends = [time.perf_counter()]
            for _ in range(n_laps):
                work()
                ends.append(time.perf_counter())
            return [1e3 * (end - start) for start, end in itertools.pairwise(ends)]
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(n_laps + 1)]
        marks[0].record()
        for mark in marks[1:]:
            work()
            mark.record()
        self.wait()
        return [start.elapsed_time(end) for start, end in itertools.pairwise(marks)]

    def wait(self) -> None:
        """Let the device finish."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Give back a GPU's memory of models that nobody holds any more."""
        if self.is_gpu:
            gc.collect()
            torch.cuda.empty_cache()

    def contexts(self, *, on_gpu: list[int]) -> list[int]:
        """List the lengths to try: those asked for, else those for a GPU, else some short ones."""
        n = self.run.data.n_context
        return self.options.lengths() or (on_gpu if self.is_gpu else [n // 4, n, 4 * n])


def ratio(row: Row, other: Row, figure: str) -> float:
    """Divide a figure of one row by that of another."""
    ours, theirs = row[figure], other[figure]
    assert isinstance(ours, float)
    assert isinstance(theirs, float)
    return ours / theirs


def without_recomputation(config: HybridConfig) -> HybridConfig:
    """Give the same model with all activations kept."""
    return replace(config, recompute="none", recompute_every=1, recompute_kinds="")


def place(config: HybridConfig, *, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """Build a model of the weights that every model of its shape has here, cast as the engine does.

    The parameters that set time scales stay in float32.
    """
    model = build_on_meta(config)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if is_time_scale(name) else dtype)
    model.to_empty(device=device)
    model.tie_weights()
    model.load_state_dict(initial_weights(replace(without_recomputation(config), fp8="")))
    return model


@functools.lru_cache(maxsize=1)
def initial_weights(config: HybridConfig) -> dict[str, Tensor]:
    """Draw a model's weights on the CPU, once for all the rows: it takes longer than a step."""
    return build_model(config, seed=0, device="cpu").state_dict()
