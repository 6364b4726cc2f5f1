"""The trainer: builds a run from its config, and the loop."""

import dataclasses
import math
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from helix import config as configs
from helix import distributed
from helix.batch import IGNORED, Batch
from helix.config import ConfigError, RunConfig
from helix.data import ReadAhead, ValidationSource, build_loader, build_validation
from helix.data.provenance import name_documents
from helix.models.base import ModelState, Piece, TokenScores
from helix.tokenizer import Tokenizer, load_tokenizer
from helix.training import attempts, incidents
from helix.training.checkpoint import Cost, Progress, Retention, Saver
from helix.training.engine import Applied, Engine, join_ranks
from helix.training.flops import peak_tflops, training_flops_per_token
from helix.training.guard import Guard, Incident
from helix.training.kernel_check import kernels_off, refuse_other_scores
from helix.training.metrics import Metrics, Record, longest_save_s, read_records
from helix.training.pace import Pace
from helix.training.peers import explain_lost_peer, is_lost_peer, meeting_place, tell_failure
from helix.training.requeue import requeue_after_stop
from helix.training.rollback import resume, roll_back
from helix.training.schedule import rate_ratio
from helix.training.stops import Stops
from helix.training.validation import SourceScore, score_sources
from helix.training.warm_start import begin_from, find_origin
from helix.training.warmup import warm_up
from helix.training.watchdog import Watchdog

VOCABULARY_MULTIPLE = 128  # an embedding may be padded up to this: kernels want round widths
NAMED_DOCUMENTS = 64  # of a step that is skipped; incidents.jsonl numbers the others


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
    watchdog: Watchdog
    known_save_s: float = 0.0  # the longest of the attempts before this one
    saver: Saver = field(init=False)
    guard: Guard = field(init=False)
    pace: Pace = field(init=False)
    stops: Stops = field(init=False)
    validated: tuple[int, float] = (-1, math.nan)  # the last such step, mean bits per byte

    def __post_init__(self) -> None:
        training = self.config.training
        self.guard = Guard(self.config.guard, self.progress.guard)
        self.pace = Pace(self.config.watchdog)
        self.stops = Stops(first_save_s=self.known_save_s or self.config.guard.first_save_s)
        self.engine.enter = self.watchdog.enter
        kept = Retention(
            last=training.keep_checkpoints,
            every_steps=training.keep_every_steps,
            best=training.keep_best,
        )
        self.saver = Saver(self.config.run_dir, kept, is_asynchronous=training.async_checkpoints)

    @classmethod
    def build(cls, config: RunConfig, folder: Path | None = None) -> "Trainer":
        """Make all parts on this rank, and go on from the run folder's newest checkpoint.

        Args:
            folder: Of `meet`, which comes first; it is called here where not given.

        Raises:
            ConfigError: The parts do not fit together, or the folder holds another run.
            DataError: The shards are not whole.
            CheckpointError: The checkpoint is of another model.
        """
        folder = folder or meet(config)
        rank, world_size = distributed.rank(), distributed.world_size()
        distributed.seed_everything(config.seed)
        tokenizer = load_tokenizer(config.tokenizer)
        refuse_other_vocabulary(config.model.n_vocab, tokenizer)
        training = config.training
        training.n_accumulations(world_size)
        origin = find_origin(config)
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
        validation = build_validation(config.data, tokenizer)
        engine = Engine.build(config)
        progress = resume(config.run_dir, engine, loader)
        if origin is not None and progress.step == 0:
            begin_from(origin, engine, config)
        records = read_records(config.run_dir)
        attempt = next_attempt(records)
        if distributed.is_main():
            configs.save(config, configs.saved_path(config.run_dir))
            engine.save_settings(Path(config.run_dir) / "deepspeed.json")
            made_with = attempts.describe(attempt, n_ranks=world_size, device=engine.device)
            attempts.append(config.run_dir, made_with)
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
            watchdog=Watchdog(config.watchdog, folder, rank=rank, world_size=world_size),
            bytes_of_token=torch.tensor(n_bytes),
            known_save_s=longest_save_s(records),
        )

    def fit(self) -> int:
        """Train to the last step; give 0, or the number of the signal that stopped the run."""
        with self.stops:
            with self.watchdog, self.metrics, self.loader, self.saver:
                stop = self.take_steps()
            stop = stop if self.progress.step < self.config.training.n_steps else 0
            if stop:
                requeue_after_stop(wait_s=self.config.guard.requeue_wait_s)
        return stop

    def take_steps(self) -> int:
        """Take steps to the last one or to a stop; give the signal, or 0. All is saved then."""
        training = self.config.training
        if training.checkpoint_every_steps:
            self.saver.reserve(self.engine)
        if self.progress.step == 0:
            scores = self.validate()
            if training.warm_start:
                self.check_kernels(scores)
        stop = 0
        while self.progress.step < training.n_steps and not stop:
            self.metrics.write(*self.take_step())
            if self.guard.is_rollback_due:
                self.roll_back()
                continue
            if self.is_due(training.validate_every_steps):
                self.validate()
            stop = self.stops.agreed()
            self.note_saved(self.saver.poll())
            if stop or self.is_due(training.checkpoint_every_steps):
                self.save()
        self.watchdog.enter("save")
        self.note_saved(self.saver.finish())
        return stop

    def is_due(self, every_steps: int) -> bool:
        """Tell whether something that happens every so many steps, and at the end, happens now."""
        step = self.progress.step
        return step == self.config.training.n_steps or (every_steps > 0 and step % every_steps == 0)

    def take_step(self) -> tuple[int, int, Record]:
        """Take one optimizer step, or skip it as the guard says.

        Returns:
            The steps and tokens so far and the step's figures.
        """
        started = time.perf_counter()
        step, training = self.progress.step, self.config.training
        self.watchdog.step = step + 1
        self.watchdog.enter("data")
        distributed.seed_everything(distributed.derive_seed(self.config.seed, "step", step))
        rate = self.config.optimizer.learning_rate * rate_ratio(
            self.config.schedule, step, training.n_steps
        )
        batch = self.loader.next()
        self.watchdog.enter("forward")
        totals = distributed.sum_over_ranks(self.count(batch))
        n_targets, n_bytes = (int(total) for total in totals)
        nats = torch.zeros((), dtype=torch.float64, device=self.engine.device)
        for start in range(0, batch.n_rows, training.micro_batch_rows):
            rows = batch.rows(start, start + training.micro_batch_rows)
            micro_batch = rows.to(self.engine.device)
            nats += self.engine.accumulate(micro_batch, n_targets=n_targets)
        if step + 1 < training.n_steps:
            self.loader.prepare()  # while the GPU works through what was just queued
        self.watchdog.enter("step")
        nats = float(distributed.sum_over_ranks(nats))
        self.guard.begin(step + 1, nats / n_targets)
        applied = self.engine.apply(rate, self.guard.accepts)
        incident = self.guard.end(is_applied=applied.is_applied)
        n_trained = n_targets if applied.is_applied else 0
        self.progress = dataclasses.replace(
            self.progress, step=step + 1, n_tokens=self.progress.n_tokens + n_trained
        )
        record = self.describe(
            applied,
            nats=nats,
            n_targets=n_targets,
            n_bytes=n_bytes,
            rate=rate,
            seconds=time.perf_counter() - started,
        )
        if incident is not None:
            record[f"train/is_{incident.kind}"] = 1.0
            self.note_incident(incident)
        return self.progress.step, self.progress.n_tokens, record

    def note_incident(self, incident: Incident) -> None:
        """Write down why a step was skipped, and the documents that it was made of."""
        if not distributed.is_main():
            return
        row = self.loader.state_dict()["n_rows_drawn"] - self.config.training.batch_rows
        told = dataclasses.asdict(incident) | {"attempt": self.metrics.attempt, "row": row}
        for name in ("value", "score"):  # JSON has no infinity
            told[name] = told[name] if math.isfinite(told[name]) else repr(told[name])
        documents = name_documents(self.loader.loader, row, n_named=NAMED_DOCUMENTS)
        incidents.append(self.config.run_dir, {**told, "documents": documents})
        print(
            f"helix: step {incident.step}: skipped: {incident.kind}: {incident.value:.4g}; its "
            "documents are in incidents.jsonl",
            file=sys.stderr,
            flush=True,
        )

    def roll_back(self) -> None:
        """Go back to the last checkpoint before the incidents, and on in the data after them.

        Raises:
            TrainingError: See rollback.roll_back.
        """
        self.watchdog.enter("save")
        self.note_saved(self.saver.finish())
        self.progress, done = roll_back(self.config.run_dir, self.engine, self.loader, self.guard)
        self.guard.load_state_dict(self.progress.guard)
        if distributed.is_main():
            print(
                f"helix: step {done.step}: too many steps were skipped: back to the weights of "
                f"step {done.to_step}, and on in the data after step {done.step}",
                file=sys.stderr,
                flush=True,
            )

    def count(self, batch: Batch) -> Tensor:
        """Count this rank's targets and the bytes of text that they stand for."""
        n_bytes = self.bytes_of_token[batch.targets[batch.targets != IGNORED]].sum()
        return torch.tensor([batch.n_targets, int(n_bytes)])

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
        own_ms = self.loader.wait_ms
        own_ms += self.engine.forward_timer.ms() if self.engine.stage < 3 else 0.0
        slowest = self.pace.note(own_ms, seconds * 1e3)
        if slowest is not None:
            record["speed/slowest_rank"] = float(slowest.rank)
            record["speed/slowest_rank_ratio"] = slowest.ratio
        return record

    def validate(self) -> dict[str, SourceScore]:
        """Score the held-out documents of each source and write the figures."""
        scores = self.score_sources()
        record: Record = {}
        for name, score in scores.items():
            record[f"validation/{name}/bits_per_byte"] = score.bits_per_byte
            record[f"validation/{name}/loss_nats_per_token"] = score.nats_per_token
        if record:
            self.metrics.write(self.progress.step, self.progress.n_tokens, record)
            mean = sum(score.bits_per_byte for score in scores.values()) / len(scores)
            self.validated = self.progress.step, mean
        return scores

    def check_kernels(self, on: dict[str, SourceScore]) -> None:
        """Score the weights that a run begins with once more, without fast kernels.

        Raises:
            TrainingError: The figures are not those with them.
        """
        with kernels_off(self.engine.model, self.config.model):
            off = self.score_sources()
        record = {f"kernels_off/{name}/bits_per_byte": s.bits_per_byte for name, s in off.items()}
        self.metrics.write(self.progress.step, self.progress.n_tokens, record)
        refuse_other_scores(on, off)

    def score_sources(self) -> dict[str, SourceScore]:
        """Score the held-out documents of each source."""
        return score_sources(
            self.score,
            self.validation,
            device=self.engine.device,
            batch_tokens=self.config.training.validation_rows * self.config.data.n_context,
        )

    def score(self, piece: Piece) -> tuple[TokenScores, ModelState]:
        """Score a piece of some documents without gradients."""
        self.watchdog.enter("validate")
        return self.engine.score(piece)

    def save(self) -> None:
        """Begin a checkpoint of this step; the saver's `poll` or `finish` makes it whole.

        See Saver.start for errors.
        """
        self.watchdog.enter("save")
        step, score = self.validated
        is_scored = step == self.progress.step and math.isfinite(score)
        self.saver.start(
            self.engine,
            dataclasses.replace(
                self.progress,
                loader=self.loader.state_dict(),
                guard=self.guard.state_dict(),
                bits_per_byte=score if is_scored else None,
            ),
        )

    def note_saved(self, costs: list[Cost]) -> None:
        """Write what checkpoints cost that have become whole."""
        longest_s, is_under_way = self.saver.longest_save_s, self.saver.under_way is not None
        self.stops.note_save(longest_s, is_under_way=is_under_way)
        for cost in costs:
            self.metrics.write(self.progress.step, self.progress.n_tokens, cost.figures())


def train(config: RunConfig) -> int:
    """Train a run to its end; give 0, or the signal that stopped it. All ranks call it.

    Raises:
        LostPeerError: Another rank went away; the job was put back into the queue where it may be.
        PeerFailedError: Another rank ended with an error of its own.
    """
    folder = meet(config)
    trainer = None
    try:
        trainer = Trainer.build(config, folder)
        return trainer.fit()
    except Exception as error:
        if is_lost_peer(error):
            place = trainer and trainer.watchdog.place()
            where = f"{place.phase} of step {place.step}" if place else "the start"
            raise explain_lost_peer(error, folder, place=where) from error
        tell_failure(error, folder)
        raise


def meet(config: RunConfig) -> Path:
    """Join the ranks and claim the run folder; give the folder where they leave word.

    Raises:
        ConfigError: The run folder holds another run.
    """
    warm_up(config)
    join_ranks()
    claim_run_dir(config)
    return meeting_place(config.run_dir, next_attempt(read_records(config.run_dir)))


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


def next_attempt(records: Sequence[Record]) -> int:
    """Count how often the run was started before."""
    return 1 + max((int(record["attempt"]) for record in records), default=-1)


def peak_gib(device: torch.device) -> float:
    """Give the highest memory so far: allocated on a GPU, resident elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux gives KiB
