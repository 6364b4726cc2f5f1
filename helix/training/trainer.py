"""The trainer: builds a run from its config, and the loop."""

import dataclasses
import math
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from helix import config as configs
from helix import distributed
from helix.batch import IGNORED, Batch
from helix.config import ConfigError, RunConfig
from helix.data import ReadAhead, ValidationSource, build_loader, build_validation
from helix.models import build_model
from helix.tokenizer import Tokenizer, load_tokenizer
from helix.training import checkpoint
from helix.training.checkpoint import Progress
from helix.training.engine import Applied, Engine, join_ranks
from helix.training.flops import peak_tflops, training_flops_per_token
from helix.training.guard import StopSignals
from helix.training.metrics import Metrics, Record, read_records
from helix.training.schedule import rate_ratio
from helix.training.validation import score_sources
from helix.training.warmup import warm_up

VOCABULARY_MULTIPLE = 128  # an embedding may be padded up to this: kernels want round widths


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says what to do."""


@dataclass(kw_only=True)
class Trainer:
    """A run in progress. `Trainer.build` makes one; `fit` takes it to its end or to a signal."""

    config: RunConfig
    loader: ReadAhead
    validation: list[ValidationSource]
    engine: Engine
    metrics: Metrics
    progress: Progress
    bytes_of_token: (
        Tensor  # UTF-8 bytes that each id stands for, on the CPU like the loader's batches
    )

    @classmethod
    def build(cls, config: RunConfig) -> "Trainer":
        """Make all parts on this rank, and go on from the run folder's newest checkpoint.

        Raises:
            ConfigError: The parts do not fit together, or the folder holds another run.
            DataError: The shards are not whole.
            CheckpointError: The checkpoint is of another model.
        """
        warm_up(config)
        join_ranks()
        rank, world_size = distributed.rank(), distributed.world_size()
        claim_run_dir(config)
        distributed.seed_everything(config.seed)
        tokenizer = load_tokenizer(config.tokenizer)
        refuse_other_vocabulary(config.model.n_vocab, tokenizer)
        training = config.training
        training.n_accumulations(world_size)
        loader = ReadAhead(
            build_loader(
                config.data,
                tokenizer,
                batch_rows=training.batch_rows,
                rank=rank,
                world_size=world_size,
                seed=config.seed,
            )
        )
        validation = build_validation(
            config.data,
            tokenizer,
            rank=rank,
            world_size=world_size,
            n_rows=training.validation_rows,
        )
        model = build_model(config.model, seed=config.seed, device="cpu")
        engine = Engine(model, config)
        progress = restore(engine, loader, config)
        attempt = next_attempt(config.run_dir)
        if distributed.is_main():
            configs.save(config, configs.saved_path(config.run_dir))
            engine.save_settings(Path(config.run_dir) / "deepspeed.json")
            print(engine.summary(), file=sys.stderr, flush=True)
        metrics = Metrics(config, is_main=distributed.is_main(), attempt=attempt)
        n_bytes = [len(tokenizer.token_bytes(token)) for token in range(tokenizer.n_vocab)]
        return cls(
            config=config,
            loader=loader,
            validation=validation,
            engine=engine,
            metrics=metrics,
            progress=progress,
            bytes_of_token=torch.tensor(n_bytes),
        )

    def fit(self) -> int:
        """Train to the last step; give 0, or the number of the signal that stopped the run."""
        training = self.config.training
        with StopSignals() as signals, self.metrics, self.loader:
            if self.progress.step == 0:
                self.validate()
            stop = 0
            while self.progress.step < training.n_steps and not stop:
                self.metrics.write(*self.take_step())
                if self.is_due(training.validate_every_steps):
                    self.validate()
                stop = signals.agreed()
                if stop or self.is_due(training.checkpoint_every_steps):
                    self.save()
        return stop if self.progress.step < training.n_steps else 0

    def is_due(self, every_steps: int) -> bool:
        """Tell whether something that happens every so many steps, and at the end, happens now."""
        step = self.progress.step
        return step == self.config.training.n_steps or (every_steps > 0 and step % every_steps == 0)

    def take_step(self) -> tuple[int, int, Record]:
        """Take one optimizer step; give the steps and tokens so far and the step's figures.

        Raises:
            TrainingError: The loss or the gradient is not finite. Nothing was saved since.
        """
        started = time.perf_counter()
        step, training = self.progress.step, self.config.training
        distributed.seed_everything(distributed.derive_seed(self.config.seed, "step", step))
        rate = self.config.optimizer.learning_rate * rate_ratio(
            self.config.schedule, step, training.n_steps
        )
        batch = self.loader.next()
        totals = distributed.sum_over_ranks(self.count(batch))
        n_targets, n_bytes = (int(total) for total in totals)
        nats = torch.zeros((), dtype=torch.float64, device=self.engine.device)
        for start in range(0, batch.n_rows, training.micro_batch_rows):
            rows = batch.rows(start, start + training.micro_batch_rows)
            micro_batch = rows.to(self.engine.device)
            nats += self.engine.accumulate(micro_batch, n_targets=n_targets)
        if step + 1 < training.n_steps:
            self.loader.prepare()  # while the GPU works through what was just queued
        nats = distributed.sum_over_ranks(nats)
        self.refuse_non_finite(float(nats), "loss")
        applied = self.engine.apply(rate)
        if not applied.is_applied and distributed.is_main():
            print(f"step {step + 1}: skipped, a gradient is not finite", file=sys.stderr)
        self.progress = dataclasses.replace(
            self.progress, step=step + 1, n_tokens=self.progress.n_tokens + n_targets
        )
        record = self.describe(
            applied,
            nats=float(nats),
            n_targets=n_targets,
            n_bytes=n_bytes,
            rate=rate,
            seconds=time.perf_counter() - started,
        )
        return self.progress.step, self.progress.n_tokens, record

    def count(self, batch: Batch) -> Tensor:
        """Count this rank's targets and the bytes of text that they stand for."""
        n_bytes = self.bytes_of_token[batch.targets[batch.targets != IGNORED]].sum()
        return torch.tensor([batch.n_targets, int(n_bytes)])

    def refuse_non_finite(self, value: float, name: str) -> None:
        """Stop a run whose loss or gradient is not finite, before it can be saved."""
        if not math.isfinite(value):
            raise TrainingError(
                f"step {self.progress.step + 1}: the {name} is {value}; the weights on disk are "
                "those of the last checkpoint. Lower optimizer.learning_rate or "
                "training.clip_norm and start again in a new run_dir"
            )

    def describe(
        self,
        applied: Applied,
        *,
        nats: float,
        n_targets: int,
        n_bytes: int,
        rate: float,
        seconds: float,
    ) -> Record:
        """Name the figures of a step."""
        if applied.is_applied:
            self.refuse_non_finite(applied.gradient_norm, "gradient norm")
        tokens_per_s = n_targets / seconds
        record = {
            "train/loss_nats_per_token": nats / n_targets,
            "train/bits_per_byte": nats / math.log(2) / n_bytes,
            "train/learning_rate": rate,
            "train/gradient_norm": applied.gradient_norm,
            "train/is_step_applied": float(applied.is_applied),
            "speed/tokens_per_s": tokens_per_s,
            "speed/step_ms": seconds * 1e3,
            "speed/data_wait_ms": self.loader.wait_ms,
            "memory/peak_gib": peak_gib(self.engine.device),
        }
        peak = self.config.metrics.peak_tflops or peak_tflops(self.engine.device)
        if peak:
            flops = training_flops_per_token(self.config.model, self.config.data.n_context)
            record["speed/mfu"] = flops * tokens_per_s / self.engine.world_size / (peak * 1e12)
        return record

    def validate(self) -> None:
        """Score the held-out documents of each source and write the figures."""
        scores = score_sources(self.engine.evaluate, self.validation, self.engine.device)
        record: Record = {}
        for name, score in scores.items():
            record[f"validation/{name}/bits_per_byte"] = score.bits_per_byte
            record[f"validation/{name}/loss_nats_per_token"] = score.nats_per_token
        if record:
            self.metrics.write(self.progress.step, self.progress.n_tokens, record)

    def save(self) -> None:
        """Write a checkpoint; see checkpoint.save for errors."""
        progress = dataclasses.replace(self.progress, loader=self.loader.state_dict())
        checkpoint.save(
            self.engine,
            self.config.run_dir,
            progress,
            keep=self.config.training.keep_checkpoints,
        )


def train(config: RunConfig) -> int:
    """Train a run to its end; give 0, or the signal that stopped it. All ranks call it."""
    return Trainer.build(config).fit()


def claim_run_dir(config: RunConfig) -> None:
    """Make the run folder, and refuse one that holds a run of another config."""
    if not config.run_dir:
        raise ConfigError("run_dir=: say where the run keeps its files, as in run_dir=runs/first")
    saved = configs.saved_path(config.run_dir)
    if saved.exists():
        difference = configs.first_difference(config, configs.load_file(saved, config))
        if difference:
            raise ConfigError(
                f"run_dir={config.run_dir}: holds another run: {difference}; drop that setting to "
                "go on with it, or give a new run_dir"
            )
    Path(config.run_dir).mkdir(parents=True, exist_ok=True)


def refuse_other_vocabulary(n_vocab: int, tokenizer: Tokenizer) -> None:
    """Refuse an embedding smaller than the tokenizer's vocabulary, or padded beyond reason."""
    padded = -(-tokenizer.n_vocab // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    if not tokenizer.n_vocab <= n_vocab <= padded:
        raise ConfigError(
            f"model.n_vocab={n_vocab}: the tokenizer has {tokenizer.n_vocab} entries; set "
            f"model.n_vocab={tokenizer.n_vocab} (or up to {padded})"
        )


def restore(engine: Engine, loader: ReadAhead, config: RunConfig) -> Progress:
    """Load the newest intact checkpoint into engine and loader; without one, begin at step 0."""
    found = checkpoint.newest(config.run_dir) if distributed.is_main() else None
    path = distributed.from_main(str(found) if found else "")
    if not path:
        return Progress()
    progress = checkpoint.load(engine, Path(path))
    loader.load_state_dict(progress.loader)
    return progress


def next_attempt(run_dir: str) -> int:
    """Count how often the run was started before."""
    return 1 + max((int(record["attempt"]) for record in read_records(run_dir)), default=-1)


def peak_gib(device: torch.device) -> float:
    """Give the highest memory so far: allocated on a GPU, resident elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux gives KiB
