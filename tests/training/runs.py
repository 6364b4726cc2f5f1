"""What the tests of training do on one rank or on two: functions that a spawned rank can import."""

import contextlib
import errno
import hashlib
import importlib.resources
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from helix import distributed
from helix.config import RunConfig
from helix.models import build_model
from helix.training import checkpoint, fragments
from helix.training.checkpoint import CheckpointError, saving
from helix.training.engine import Engine, join_ranks
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
        trainer.saver.finish()


def parameters_after(config: RunConfig) -> dict[str, Tensor]:
    """Train a run and give each fp32 weight and moment of its last checkpoint."""
    train(config)
    path = checkpoint.newest(config.run_dir)
    return tensors_of(path)


def tensors_of(path: Path) -> dict[str, Tensor]:
    """Read each fp32 weight and moment of a checkpoint, flat, by name."""
    reader = checkpoint.TensorReader(path)
    reader.check(checkpoint.read_state(path))
    return {name: reader.read(name, (-1,)) for name in sorted(reader.runs)}


def seed_of_rank() -> float:
    """Draw one number after seeding, to see that ranks agree."""
    join_ranks()
    distributed.seed_everything(3)
    return float(torch.rand(()))


def with_words(config: RunConfig, **training: object) -> RunConfig:
    """Change training settings of a run."""
    return replace(config, training=replace(config.training, **training))


def stage_words(stage: int | str, folder: Path) -> list[str]:
    """Ask for a ZeRO stage as it is shipped, but for buffers of 800 MB, which tests fill with NaN.

    Args:
        stage: A number, or the rest of a file's name, as in 2_offload; 0 has no file of its own.
    """
    settings = {"zero_optimization": {"stage": 0}}
    if stage:
        shipped = importlib.resources.files("ds_configs") / f"zero{stage}.json"
        settings = json.loads(shipped.read_text(encoding="utf-8"))
        for name in settings["zero_optimization"]:
            if name.endswith("bucket_size"):
                settings["zero_optimization"][name] = 100_000
    file = folder / f"zero{stage}.json"
    file.write_text(json.dumps(settings))
    return [f"training.deepspeed={file}"]


def save_after_a_step(config: RunConfig) -> None:
    """Take one step and save, in files of 16 KiB so that many parameters are cut."""
    trainer = Trainer.build(config)
    with trainer.metrics, small_files():
        trainer.take_step()
        checkpoint.save(trainer.engine, config.run_dir, trainer.progress, keep=1)


def load_and_save_again(config: RunConfig, paths: list[Path], out: Path) -> None:
    """Load checkpoints into one engine after the other's state, and save each below `out`."""
    join_ranks()
    engine = Engine(build_model(config.model, seed=7, device="cpu"), config)
    for path in paths:
        progress = checkpoint.load(engine, path)
        assert_working_weights(engine, path)
        checkpoint.save(engine, out / path.parents[1].name, progress, keep=1)


def digest_shares(config: RunConfig, is_built_whole: bool) -> dict[str, str]:
    """Hash what this rank owns of each parameter, and tell the decay of the group it is in."""
    join_ranks()
    if is_built_whole:
        engine = Engine(build_model(config.model, seed=config.seed, device="cpu"), config)
    else:
        engine = Engine.build(config)
    return {
        f"{own.name}@{own.offset}": hashlib.sha256(own.weight.numpy().tobytes()).hexdigest()
        for own in fragments.owned_fragments(engine)
    } | {"groups": str([group["weight_decay"] for group in engine.engine.optimizer.param_groups])}


def assert_working_weights(engine: Engine, path: Path) -> None:
    """Hold the weights that forward sees to the checkpoint's, which are fp32."""
    reader = checkpoint.TensorReader(path)
    for name, parameter in engine.parameters.items():
        with whole(parameter):
            expected = reader.read(name, parameter.shape).to(parameter.dtype)
            assert torch.equal(parameter.data, expected), name


def whole(parameter: Tensor) -> contextlib.AbstractContextManager:
    """Gather a parameter where ZeRO-3 has shared it out."""
    if not hasattr(parameter, "ds_shape"):
        return contextlib.nullcontext()
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters

    return GatheredParameters([parameter])


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """Cut a rank's share into files of 16 KiB."""
    before = fragments.FILE_BYTES
    fragments.FILE_BYTES = 16 * 1024
    try:
        yield
    finally:
        fragments.FILE_BYTES = before


def saving_fails_on_rank(config: RunConfig, failing: int) -> tuple[str, list[str]]:
    """Save where one rank's disk is full; give the error of this rank, and what is there after."""
    trainer = Trainer.build(config)
    with trainer.metrics, trainer.saver as saver:
        trainer.take_step()
        trainer.save()
        saver.finish()
        trainer.take_step()
        write = saving.write_tensors
        if distributed.rank() == failing:
            saving.write_tensors = full_disk
        try:
            trainer.save()
            saver.finish()
            message = ""
        except CheckpointError as error:
            message = str(error)
        finally:
            saving.write_tensors = write
        distributed.barrier()
        folder = checkpoint.checkpoints_dir(config.run_dir)
        return message, sorted(path.name for path in folder.iterdir())


def full_disk(*_: object, **__: object) -> None:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
