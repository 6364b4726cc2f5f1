"""What a run will cost before it is started: parameters, FLOPs, memory a GPU, tokens a day.

Nothing is allocated; every figure is a formula over the config. How the time grows with the GPUs:
scaling.py; what a GPU holds: memory.py; what fits into it: fitting.py; how it is shown: tables.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from helix.config import ConfigError, RunConfig
from helix.plan.fitting import Fit, find_fits
from helix.plan.memory import memory_gib_by_part
from helix.plan.scaling import Links, Scaled, StepTimes, divide_rows
from helix.training.flops import training_flops_per_token

SCALE_TO = (1, 8, 64, 256, 1024)  # GPUs


@dataclass(frozen=True, kw_only=True)
class PlanConfig(Links):
    """Options of `helix plan`; anything else on the line changes the preset.

    Attributes:
        n_gpus: Data-parallel ranks.
        micro_batch_rows: Rows a GPU holds at a time; 0 takes the preset's.
        n_context: Tokens a row; 0 takes the preset's.
        peak_tflops: Dense bf16 peak of one GPU; H100 and H200 by their datasheet.
        utilisation: Model FLOPs utilisation that is assumed for tokens a day.
        gpu_gib: Memory of one GPU, into which stages and micro-batches are fitted.
        json: Print JSON instead of tables.
    """

    n_gpus: int = 1
    zero_stage: Literal[0, 1, 2, 3] = 1
    micro_batch_rows: int = 0
    n_context: int = 0
    peak_tflops: float = 989.0
    utilisation: float = 0.4
    gpu_gib: float = 80.0
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_gpus < 1:
            raise ValueError(f"n_gpus={self.n_gpus}: give at least 1")
        for name in ("micro_batch_rows", "n_context"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: give 0 or more")
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"utilisation={self.utilisation}: give a value in (0, 1]")
        for name in ("peak_tflops", "gpu_gib"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: give a value above 0")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The answer: counts are exact, memory is an estimate of what stays allocated.

    Attributes:
        tokens_per_s: Of all GPUs, at the utilisation that is assumed and without what they send.
        fits: Ways to train the preset's batch that fit into gpu_gib, the fastest first.
        fixed_batch: The preset's batch on more and more GPUs, as far as it divides.
        growing_batch: One micro-batch on each GPU.
    """

    preset: str
    pattern: str
    n_parameters: int
    parameters_by_part: dict[str, int]
    forward_flops_per_token_by_part: dict[str, int]
    training_flops_per_token: int
    n_gpus: int
    zero_stage: int
    precision: str
    micro_batch_rows: int
    n_context: int
    memory_gib_by_part: dict[str, float]
    memory_gib: float
    decoding_state_bytes: int
    utilisation: float
    peak_tflops: float
    tokens_per_s: float
    tokens_per_day: float
    fits: list[Fit]
    fixed_batch: list[Scaled]
    growing_batch: list[Scaled]


def plan(config: RunConfig, options: PlanConfig) -> Plan:
    """Work the costs of a run out.

    Raises:
        ConfigError: The context does not suit the model.
    """
    n_context = options.n_context or config.data.n_context
    rows = options.micro_batch_rows or config.training.micro_batch_rows
    model, precision = config.model, config.training.precision
    try:
        model.check(n_context)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    parts = model.parameters_by_part()
    n_parameters = sum(parts.values())
    flops = training_flops_per_token(model, n_context)
    memory = memory_gib_by_part(
        model,
        n_gpus=options.n_gpus,
        zero_stage=options.zero_stage,
        precision=precision,
        rows=rows,
        n_context=n_context,
    )
    of_one = options.peak_tflops * 1e12 * options.utilisation / flops
    tokens_per_s = options.n_gpus * of_one
    times = StepTimes(
        model=model,
        links=options,
        n_context=n_context,
        weight_bytes=2 if precision == "bf16" else 4,
        tokens_per_s=of_one,
    )
    return Plan(
        preset=config.preset,
        pattern=model.pattern,
        n_parameters=n_parameters,
        parameters_by_part=parts,
        forward_flops_per_token_by_part=model.flops_by_part(n_context),
        training_flops_per_token=flops,
        n_gpus=options.n_gpus,
        zero_stage=options.zero_stage,
        precision=precision,
        micro_batch_rows=rows,
        n_context=n_context,
        memory_gib_by_part=memory,
        memory_gib=sum(memory.values()),
        decoding_state_bytes=model.state_bytes(n_context, bytes_per_value=2),
        utilisation=options.utilisation,
        peak_tflops=options.peak_tflops,
        tokens_per_s=tokens_per_s,
        tokens_per_day=86_400 * tokens_per_s,
        fits=find_fits(
            times,
            gpu_gib=options.gpu_gib,
            n_gpus=options.n_gpus,
            rows_a_step=config.training.batch_rows,
            precision=precision,
        ),
        fixed_batch=list(scale_batch(times, options, rows, config.training.batch_rows)),
        growing_batch=list(scale_batch(times, options, rows)),
    )


def scale_batch(
    times: StepTimes, options: PlanConfig, micro_batch_rows: int, rows_a_step: int | None = None
) -> Iterator[Scaled]:
    """Time a step on 1 to 1024 GPUs, and on as many as are asked about.

    Args:
        micro_batch_rows: Fewer where a fixed batch asks for it.
        rows_a_step: Of a fixed batch, on numbers of GPUs that divide it; one micro-batch on each
            GPU where not given.
    """
    for n_gpus in sorted({*SCALE_TO, options.n_gpus}):
        rows = micro_batch_rows
        if rows_a_step is not None:
            rows = divide_rows(rows_a_step, micro_batch_rows, n_gpus)
        if rows:
            yield times.of(
                n_gpus=n_gpus,
                zero_stage=options.zero_stage,
                rows_a_step=rows_a_step or rows * n_gpus,
                micro_batch_rows=rows,
            )
