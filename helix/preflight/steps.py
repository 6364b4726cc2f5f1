"""Steps: a small model of the run's own kinds takes some, under DeepSpeed, on all ranks.

Every rank reads the same batch, so every rank must see the same loss.
"""

import gc
import math
from dataclasses import replace

import torch

from helix import distributed
from helix.batch import Batch
from helix.config import RunConfig
from helix.models import HybridConfig
from helix.preflight.context import Context
from helix.preflight.findings import Facts, Seen
from helix.training.engine import Engine

N_STEPS = 3
N_ROWS = 2
D_MODEL, D_FFN, N_VOCAB = 256, 512, 1024
LEARNING_RATE = 1e-3
SAME = 1e-3  # relative difference of the first loss between ranks


def look_at_steps(context: Context) -> list[float]:
    """Take steps on one batch; give the loss before each, in nats per token."""
    run = reduced(context.of_run, context.world_size)
    distributed.seed_everything(run.seed)
    engine = Engine.build(run)
    batch = draw_batch(run).to(engine.device)
    losses = []
    for _ in range(N_STEPS):
        loss = engine.accumulate(batch, n_targets=batch.n_targets * context.world_size)
        losses.append(float(loss) / batch.n_targets)
        engine.apply(LEARNING_RATE)
    del engine
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return losses


def judge_steps(facts: Facts) -> Seen:
    """Refuse a loss that is not finite, or not the same on all ranks, or does not fall."""
    losses = facts.by_rank
    odd = [rank for rank, told in losses.items() if not all(map(math.isfinite, told))]
    if odd:
        advice = "try training.precision=fp32 and the reference backends to find what breaks"
        return Seen(f"{facts.name(odd)}: the loss is not finite", "FAILED", advice)
    firsts = sorted(told[0] for told in losses.values())
    median = firsts[len(firsts) // 2]
    others = [rank for rank, told in losses.items() if abs(told[0] - median) > SAME * median]
    if others:
        found = f"{facts.name(others)}: another loss on the same batch ({losses[others[0]][0]:.4f} "
        found += f"instead of {median:.4f})"
        return Seen(found, "FAILED", "leave that node out: its device computes otherwise")
    first, last = losses[0][0], losses[0][-1]
    found = f"loss {first:.3f} to {last:.3f} in {N_STEPS} steps on one batch"
    if last >= first:
        return Seen(found, "warning", "look at the optimizer's settings: it should fall")
    return Seen(found)


def reduced(run: RunConfig, world_size: int) -> RunConfig:
    """Give the run with one narrow block of each kind and short rows."""
    model = replace(
        run.model,
        pattern=" ".join(dict.fromkeys(run.model.kinds())),
        n_vocab=min(run.model.n_vocab, N_VOCAB),
        loss_chunk_rows=min(run.model.loss_chunk_rows, 256),
        recompute="none",
        recompute_every=1,
        recompute_kinds="",
    )
    chunks = [getattr(model.mixer(kind), "chunk_tokens", 1) for kind in model.kinds()]
    n_context = 2 * max(64, *chunks) if chunks else 128
    return replace(
        run,
        model=narrowed(model, n_context),
        data=replace(run.data, n_context=n_context),
        training=replace(
            run.training, micro_batch_rows=N_ROWS, batch_rows=N_ROWS * world_size
        ),
    )  # fmt: skip


def narrowed(model: HybridConfig, n_context: int) -> HybridConfig:
    """Make a wide model narrow, unless its other settings do not divide the new width."""
    if model.d_model <= D_MODEL:
        return model
    narrow = replace(
        model,
        d_model=D_MODEL,
        d_ffn=min(model.d_ffn, D_FFN),
        mamba2=replace(model.mamba2, n_groups=1),
        gla=replace(model.gla, n_heads=2),
        sparse=replace(model.sparse, n_heads=2, n_kv_heads=None),
        attention=replace(model.attention, n_heads=2, n_kv_heads=None),
    )
    try:
        narrow.check(n_context)
    except ValueError:
        return model
    return narrow


def draw_batch(run: RunConfig) -> Batch:
    """Draw rows of tokens, each one document."""
    generator = torch.Generator().manual_seed(run.seed)
    shape = N_ROWS, run.data.n_context + 1
    tokens = torch.randint(run.model.n_vocab, shape, generator=generator)
    return Batch(
        tokens=tokens[:, :-1].contiguous(),
        targets=tokens[:, 1:].contiguous(),
        document_ids=torch.zeros_like(tokens[:, 1:]),
    )
