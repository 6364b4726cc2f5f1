"""Which stage, recomputation and micro-batch suit a GPU's memory, and what each costs in speed."""

from dataclasses import dataclass, replace
from typing import get_args

from helix.models.hybrid import HybridConfig
from helix.models.stack import Recompute
from helix.plan.memory import memory_gib_by_part
from helix.plan.scaling import StepTimes, micro_batches

STAGES = (1, 2, 3)
# Of a GPU's memory: NCCL, cuBLAS, the CUDA context and what fragments take the rest.
USABLE = 0.9
# Time of a step over that without: 382.6 against 361.4 ms, 0.9B on one H200. What full
# recomputation costs follows from its FLOPs (437.2 ms there, 448 by them).
SELECTIVE_COST = 1.06


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A way to train that fits.

    Attributes:
        micro_batch_rows: The most that fit and divide the batch.
        tokens_per_s: Of all GPUs.
    """

    zero_stage: int
    recompute: str
    micro_batch_rows: int
    memory_gib: float
    tokens_per_s: float


def find_fits(
    times: StepTimes, *, gpu_gib: float, n_gpus: int, rows_a_step: int, precision: str
) -> list[Fit]:
    """List the ways that fit, the fastest first: one for each stage and kind of recomputation."""
    n_context = times.n_context
    fits = []
    for stage in STAGES if n_gpus > 1 else STAGES[:1]:  # one GPU has nobody to share with
        for recompute in get_args(Recompute):
            tried = replace(times.model, recompute=recompute, recompute_every=1, recompute_kinds="")
            for rows in micro_batches(rows_a_step, n_gpus):
                memory_gib = sum(
                    memory_gib_by_part(
                        tried,
                        n_gpus=n_gpus,
                        zero_stage=stage,
                        precision=precision,
                        rows=rows,
                        n_context=n_context,
                    ).values()
                )
                if memory_gib <= USABLE * gpu_gib:
                    step = times.of(
                        n_gpus=n_gpus,
                        zero_stage=stage,
                        rows_a_step=rows_a_step,
                        micro_batch_rows=rows,
                    )
                    seconds = step.step_s + step.computing_s * (cost(tried, n_context) - 1)
                    fit = Fit(
                        zero_stage=stage,
                        recompute=recompute,
                        micro_batch_rows=rows,
                        memory_gib=memory_gib,
                        tokens_per_s=rows_a_step * n_context / seconds,
                    )
                    fits.append(fit)
                    break
    return sorted(fits, key=lambda fit: (-fit.tokens_per_s, fit.memory_gib))


def cost(model: HybridConfig, n_context: int) -> float:
    """Give the time of computing with recomputation over that without."""
    if model.recompute != "full":
        return SELECTIVE_COST if model.recompute == "selective" else 1.0
    flops = model.flops_by_part(n_context)
    blocks = sum(flops.values()) - flops["head"]
    return 1 + blocks / (3 * sum(flops.values()))
