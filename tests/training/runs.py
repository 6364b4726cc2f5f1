"""What the tests of training do on one rank or on two: functions that a spawned rank can import."""

from dataclasses import replace

import torch

from helix import distributed
from helix.config import RunConfig
from helix.training import checkpoint
from helix.training.engine import join_ranks
from helix.training.metrics import read_records
from helix.training.trainer import Trainer, train


def losses_of(config: RunConfig) -> list[float]:
    """Train a run and give the loss of each step from its metrics."""
    train(config)
    records = read_records(config.run_dir)
    return [r["train/loss_nats_per_token"] for r in records if "train/loss_nats_per_token" in r]


def train_until(config: RunConfig, step: int) -> None:
    """Train a run to one step and save there, as a stop signal would have it."""
    trainer = Trainer.build(config)
    with trainer.metrics:
        trainer.validate()
        while trainer.progress.step < step:
            trainer.metrics.write(*trainer.take_step())
        trainer.save()


def parameters_after(config: RunConfig) -> dict[str, list]:
    """Train a run and give each fp32 weight and moment of its last checkpoint."""
    train(config)
    path = checkpoint.newest(config.run_dir)
    weights, moments = checkpoint._by_name(path, "weights"), checkpoint._by_name(path, "moments")
    files = {**weights, **moments}
    return {name: checkpoint._read(files, name) for name in sorted(files)}


def seed_of_rank() -> float:
    """Draw one number after seeding, to see that ranks agree."""
    join_ranks()
    distributed.seed_everything(3)
    return float(torch.rand(()))


def with_words(config: RunConfig, **training: object) -> RunConfig:
    """Change training settings of a run."""
    return replace(config, training=replace(config.training, **training))
