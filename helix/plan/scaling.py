"""How a step's time grows with the GPUs: a model of what ranks send each other, and when.

Bytes that pass each of N GPUs in a step of A micro-batches, P parameters with working weights of w
bytes (2 in bf16) and gradients that are sent in fp32, times (N - 1) / N (Rajbhandari et al. 2019,
arXiv:1910.02054, section 7):

    stage 0   2 x 4 P                   gradients, all-reduced
    stage 1   4 P + w P                 gradients once, weights once
    stage 2   4 P A + w P               gradients after each micro-batch
    stage 3   (4 + 2 w) P A             and weights gathered for each forward and backward

They pass at the bus bandwidth of NCCL's rings, within a node or between nodes, whichever is less;
each collective call also takes N - 1 hops. What DeepSpeed does beside that is taken as so much time
a block and micro-batch, found on two GPUs (MACHINERY_S); nothing beyond two has been measured, nor
since stages 1 and 2 send their gradients in our way (helix.training.sending).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from helix.models.hybrid import HybridConfig

# Seconds a block beside computing and sending: two H200, 0.9B in 28 blocks, DeepSpeed 0.19.8; what
# was left of 370, 410 and 437 ms a step against 359 on one GPU when 9, 9 and 12 ms of sending are
# taken off (evals/results/hybrid_two_h200.json).
MACHINERY_S = {0: 0.0, 1: 0.0, 2: 1.5e-3, 3: 2.3e-3}
BUCKET_ELEMENTS = {0: 2e8, 1: 5e7, 2: 5e7, 3: 2e8}  # as in ds_configs, which has no stage 0
GRADIENT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Links:
    """What joins the GPUs.

    Attributes:
        node_gb_per_s: Bus bandwidth within a node, in 10^9 bytes a second for each GPU.
        network_gb_per_s: Of all network cards of a node together.
        latency_us: Of one hop of a ring.
        overlap: Share of the sending that passes while the GPU computes, where it can.
    """

    gpus_per_node: int = 8
    node_gb_per_s: float = 300.0
    network_gb_per_s: float = 400.0
    latency_us: float = 5.0
    overlap: float = 0.0

    def __post_init__(self) -> None:
        for name in ("gpus_per_node", "node_gb_per_s", "network_gb_per_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: give a value above 0")
        if not self.latency_us >= 0:
            raise ValueError(f"latency_us={self.latency_us}: give 0 or more")
        if not 0 <= self.overlap <= 1:
            raise ValueError(f"overlap={self.overlap}: give a value in [0, 1]")

    def seconds(self, n_bytes: float, n_calls: int, n_gpus: int) -> float:
        """Time collective calls that take `n_bytes` past each of some GPUs, before (N - 1) / N."""
        slowest = self.node_gb_per_s
        if n_gpus > self.gpus_per_node:
            slowest = min(slowest, self.network_gb_per_s)
        hops = (n_gpus - 1) * n_calls
        return n_bytes * (n_gpus - 1) / n_gpus / (slowest * 1e9) + hops * self.latency_us * 1e-6


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A step on some GPUs.

    Attributes:
        sending_s: Of it, what no computing hides.
        efficiency: Tokens a second and GPU, over those of a GPU that only computes.
    """

    n_gpus: int
    rows_a_step: int
    micro_batch_rows: int
    n_accumulations: int
    computing_s: float
    machinery_s: float
    sending_s: float
    step_s: float
    efficiency: float
    tokens_per_s: float
    tokens_per_day: float


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Tells how long a step of a model takes.

    Attributes:
        weight_bytes: Of one working weight.
        tokens_per_s: What one GPU computes by itself.
    """

    model: HybridConfig
    links: Links
    n_context: int
    weight_bytes: int
    tokens_per_s: float

    def of(
        self, *, n_gpus: int, zero_stage: int, rows_a_step: int, micro_batch_rows: int
    ) -> Scaled:
        """Time a step of whole micro-batches on each GPU.

        Args:
            rows_a_step: A multiple of `n_gpus` times `micro_batch_rows`.
        """
        n_accumulations = rows_a_step // (n_gpus * micro_batch_rows)
        n_tokens = rows_a_step * self.n_context
        computing_s = n_tokens / n_gpus / self.tokens_per_s
        of_each_s = MACHINERY_S[zero_stage] * len(self.model.kinds()) if n_gpus > 1 else 0.0
        machinery_s = n_accumulations * of_each_s
        n_bytes, n_calls = sent(self.model, zero_stage, self.weight_bytes, n_accumulations)
        # Stage 0 sends when all is computed; what stage 1 hides of it is not measured.
        hidden = self.links.overlap if zero_stage >= 2 else 0.0
        sending_s = (1 - hidden) * self.links.seconds(n_bytes, n_calls, n_gpus)
        step_s = computing_s + machinery_s + sending_s
        return Scaled(
            n_gpus=n_gpus,
            rows_a_step=rows_a_step,
            micro_batch_rows=micro_batch_rows,
            n_accumulations=n_accumulations,
            computing_s=computing_s,
            machinery_s=machinery_s,
            sending_s=sending_s,
            step_s=step_s,
            efficiency=computing_s / step_s,
            tokens_per_s=n_tokens / step_s,
            tokens_per_day=86_400 * n_tokens / step_s,
        )


def sent(
    model: HybridConfig, zero_stage: int, weight_bytes: int, n_accumulations: int
) -> tuple[float, int]:
    """Count the bytes and the collective calls of a step; see the module's table."""
    n_parameters = sum(model.parameters_by_part().values())
    n_buckets = math.ceil(n_parameters / BUCKET_ELEMENTS[zero_stage])
    gradients = GRADIENT_BYTES * n_parameters
    weights = weight_bytes * n_parameters
    if zero_stage == 0:
        return 2 * gradients, 2 * n_buckets
    if zero_stage < 3:
        n_sums = n_accumulations if zero_stage == 2 else 1
        return n_sums * gradients + weights, (n_sums + 1) * n_buckets
    n_gathers = 2 * (len(model.kinds()) + 1)  # each block and the embedding, forward and backward
    n_calls = n_accumulations * (n_gathers + n_buckets)
    return n_accumulations * (gradients + 2 * weights), n_calls


def micro_batches(rows_a_step: int, n_gpus: int) -> Iterator[int]:
    """List the rows of a micro-batch that divide a batch evenly, the most first."""
    of_each, left = divmod(rows_a_step, n_gpus)
    if not left:
        yield from (rows for rows in range(of_each, 0, -1) if of_each % rows == 0)


def divide_rows(rows_a_step: int, micro_batch_rows: int, n_gpus: int) -> int:
    """Choose the rows of a micro-batch, no more than wanted, that divide a batch; 0 if none do."""
    fitting = micro_batches(rows_a_step, n_gpus)
    return next((rows for rows in fitting if rows <= micro_batch_rows), 0)
