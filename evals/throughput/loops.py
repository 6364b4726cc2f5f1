"""The loops that are timed: a plain one, and a step of the trainer under DeepSpeed."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from helix import distributed
from helix.batch import Batch
from helix.config import RunConfig
from helix.data import Loader, ReadAhead
from helix.models.base import LanguageModel
from helix.training.checkpoint import Progress
from helix.training.engine import Engine, join_ranks
from helix.training.metrics import Metrics
from helix.training.optimizer import OptimizerConfig
from helix.training.trainer import Trainer
from helix.training.watchdog import Watchdog

TimedModel = Callable[[Batch, int], Tensor]  # a batch and the step's targets to its share of a mean


@dataclass
class PlainLoop:
    """Forward, backward and torch's fused AdamW on weights as they are: no master copy, no clip."""

    loss_of: TimedModel
    micro_batches: list[Batch]
    optimizer: torch.optim.Optimizer

    def accumulate(self) -> None:
        """Run forward and backward over the micro-batches."""
        self.optimizer.zero_grad(set_to_none=True)
        n_targets = sum(batch.n_targets for batch in self.micro_batches)
        for batch in self.micro_batches:
            self.loss_of(batch, n_targets).backward()

    def step(self) -> None:
        """Take a whole optimizer step."""
        self.accumulate()
        self.optimizer.step()


def mean_loss(model: LanguageModel) -> TimedModel:
    """Give a batch's part of the mean loss over a step, of one of our models."""
    return lambda batch, n_targets: model(batch).loss / n_targets


def fused_adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Make the optimizer that a plain loop would take."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def engine_run(run: RunConfig, *, n_micro_batches: int, n_steps: int) -> RunConfig:
    """Set a run's batch, over all ranks, and its length; the learning rate rises for a tenth."""
    training = replace(
        run.training,
        batch_rows=n_micro_batches * run.training.micro_batch_rows,
        n_steps=n_steps,
    )
    warm = replace(run.schedule, n_warmup_steps=n_steps // 10, n_decay_steps=0, shape="cosine")
    return replace(run, run_dir="", training=training, schedule=warm)


@contextlib.contextmanager
def trainer_of(run: RunConfig, model: LanguageModel, loader: Loader) -> Iterator[Trainer]:
    """Put a trainer together that keeps no files; its engine's memory is free afterwards."""
    join_ranks()
    trainer = Trainer(
        config=run,
        loader=ReadAhead(loader),
        validation=[],
        engine=Engine(model, run),
        metrics=Metrics(run, is_main=False, attempt=0),
        progress=Progress(),
        bytes_of_token=torch.ones(run.model.n_vocab, dtype=torch.int64),
        watchdog=Watchdog(
            run.watchdog, Path(), rank=distributed.rank(), world_size=distributed.world_size()
        ),
    )
    try:
        yield trainer
    finally:
        trainer.loader.close()
        trainer.engine.release()


def take_step(trainer: Trainer) -> float:
    """Take a step and give its loss in nats per token."""
    return trainer.take_step()[2]["train/loss_nats_per_token"]
