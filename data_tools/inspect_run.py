"""Inspect: which documents a step of a run was trained on, by look-up.

The order of documents is a pure function of the dataset, the seed, the weights and the context,
so nothing needs to have been logged. Where the run has a checkpoint, the look-up is held to it:
it must give the very position that the run saved.
"""

import dataclasses
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_tools.options import run_program
from helix.config import ConfigError, RunConfig, read_saved
from helix.data import DataError, Dataset, Loader
from helix.data.names import document_id
from helix.data.provenance import Piece, trace_rows
from helix.data.shards import check_weights
from helix.data.stream import open_split
from helix.presets import PRESETS
from helix.tokenizer import Tokenizer, load_tokenizer
from helix.training import incidents
from helix.training.incidents import rows_passed_over


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Options of `inspect`.

    Attributes:
        run_dir: Folder of the run.
        step: As metrics.jsonl counts them: the first is 1.
        rank: Tell only what this rank read.
        world_size: Ranks of the run; what it was last started with where it is not given.
        text: Show how each document's part begins.
        n_characters: Of that text.
        json: Print it for machines.
    """

    run_dir: str
    step: int
    rank: int | None = None
    world_size: int | None = None
    text: bool = False
    n_characters: int = 60
    json: bool = False

    def __post_init__(self) -> None:
        for name in ("step", "world_size", "n_characters"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: give at least 1")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive tokens of one document in a row of a step, as a person wants them.

    Attributes:
        row: Row of the global batch.
        rank: The rank that read it.
        document: Number in the index of the source.
        id: What the document was called where it came from.
        first_token: Where its part begins in the document's ids; 0 is its bos.
        epoch: How many times all documents of the source had been drawn before.
        text: How the part begins; empty where nobody asked.
    """

    row: int
    rank: int
    source: str
    document: int
    id: str
    first_token: int
    n_tokens: int
    epoch: int
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class StepInspection:
    """What a step was made of.

    Attributes:
        held_to: The checkpoint whose position the look-up was held to; empty without one.
        skipped: Why the step changed no weight; empty where it did.
        epochs: Source to the times it had been read after the step.
    """

    step: int
    world_size: int
    held_to: str
    skipped: str
    epochs: dict[str, float]
    parts: list[Part]


def run(options: InspectOptions) -> StepInspection:
    """Look a step up and print it."""
    found = inspect_step(options)
    if options.json:
        json.dump(asdict(found), sys.stdout, indent=1, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        print_step(found, options)
    return found


def inspect_step(options: InspectOptions) -> StepInspection:
    """Look up the documents of a step.

    Raises:
        ConfigError: There is no such run, step or rank.
        DataError: The dataset is not the one that the run was trained on, or is damaged.
    """
    config = read_saved(options.run_dir, PRESETS)
    if options.step > config.training.n_steps:
        raise ConfigError(f"step={options.step}: the run has {config.training.n_steps} steps")
    n_rows = config.training.batch_rows
    world_size = options.world_size or read_world_size(Path(options.run_dir), config)
    if n_rows % world_size:
        raise ConfigError(f"world_size={world_size}: does not divide batch_rows={n_rows}")
    if options.rank is not None and not 0 <= options.rank < world_size:
        raise ConfigError(f"rank={options.rank}: give 0 to {world_size - 1}")
    loader = open_loader(config)
    held_to, jumps = hold_to_checkpoint(loader, Path(options.run_dir))
    before = options.step - 1
    loader.go_to_row(before * n_rows + rows_passed_over(jumps, before))
    rows = trace_rows(loader, n_rows)
    tokenizer = load_tokenizer(config.tokenizer) if options.text else None
    if tokenizer is not None:
        loader.dataset.check_tokenizer(tokenizer)
    n_rows_a_rank = n_rows // world_size
    parts = [
        describe(loader.dataset, piece, row, row // n_rows_a_rank, tokenizer, options.n_characters)
        for row, pieces in enumerate(rows)
        if options.rank in (None, row // n_rows_a_rank)
        for piece in pieces
    ]
    return StepInspection(
        step=options.step,
        world_size=world_size,
        held_to=held_to,
        skipped=read_incident(options.run_dir, options.step),
        epochs=loader.epochs(),
        parts=parts,
    )


def open_loader(config: RunConfig) -> Loader:
    """Open the run's data; its tokenizer is not needed."""
    dataset = open_split(config.data, "train")
    return Loader(
        dataset,
        n_context=config.data.n_context,
        weights=check_weights(config.data.weights, dataset.sources),
        batch_rows=config.training.batch_rows,
        rank=0,
        world_size=1,
        seed=config.seed,
    )


def read_incident(run_dir: str, step: int) -> str:
    """Tell why the run skipped a step the last time it took it; empty where it did not."""
    entries = [e for e in incidents.read(run_dir) if isinstance(e.get("step"), int)]
    why = ""
    for entry in entries:
        if entry.get("kind") == incidents.ROLLBACK:
            why = why if entry.get("to_step", 0) >= step else ""  # it was, or will be, taken again
        elif entry["step"] == step:
            why = str(entry.get("kind"))
    return why


def hold_to_checkpoint(loader: Loader, run_dir: Path) -> tuple[str, list[list[int]]]:
    """Refuse data, or a batch, other than the newest checkpoint's.

    Returns:
        Its name, or nothing; and the guard's jumps over data, a pending rollback's among them.

    Raises:
        DataError: The look-up does not give the position that the run saved.
    """
    given_up = incidents.given_up(run_dir)
    found = sorted(run_dir.glob("checkpoints/step-*/state.json"), reverse=True)
    files = [file for file in found if file.parent not in given_up]
    if not files:
        return "", []
    file = files[0]
    try:
        state = json.loads(file.read_bytes())
        step, saved = int(state["step"]), state["loader"]
        loader.load_state_dict(saved)
        n_rows = saved["n_rows_drawn"]
        guard = state.get("guard", {})
        jumps = [list(jump) for jump in guard.get("jumps", [])]
        n_expected = step * loader.batch_rows + rows_passed_over(jumps, step)
        known = int(guard.get("n_rollbacks", 0))
        pending = incidents.pending_rollback(run_dir, step=step, n_rollbacks=known)
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError) as error:
        raise DataError(f"{file}: damaged ({error}); move that checkpoint away") from None
    if n_rows != n_expected:
        raise DataError(
            f"{file}: {n_rows:,} rows were read in {step:,} steps, which is not "
            f"training.batch_rows={loader.batch_rows} a step: the batch changed on the way, and "
            "its steps cannot be looked up"
        )
    loader.go_to_row(n_rows)
    if loader.state_dict() != saved:
        raise DataError(
            f"{file}: the run saved another position than this helix looks up; use the version "
            "of helix that trained it"
        )
    if pending is not None:
        jumps.append([step, pending.loader["n_rows_drawn"] - n_rows])
    return file.parent.name, jumps


def read_world_size(run_dir: Path, config: RunConfig) -> int:
    """Tell how many ranks the run was last started with."""
    try:
        settings = json.loads((run_dir / "deepspeed.json").read_bytes())
        n_accumulations = settings["gradient_accumulation_steps"]
        rows_at_once = settings["train_micro_batch_size_per_gpu"]
        return int(settings["train_batch_size"]) // (n_accumulations * rows_at_once)
    except (OSError, ValueError, LookupError, TypeError, ZeroDivisionError):
        raise ConfigError(
            f"run_dir={run_dir}: deepspeed.json does not tell the number of ranks; give "
            f"world_size=, a divisor of {config.training.batch_rows}"
        ) from None


def describe(
    dataset: Dataset,
    piece: Piece,
    row: int,
    rank: int,
    tokenizer: Tokenizer | None,
    n_characters: int,
) -> Part:
    """Name a piece's document and show how its part begins."""
    text = ""
    if tokenizer is not None:
        end = piece.first_token + min(piece.n_tokens, 4 * n_characters)  # UTF-8: 4 bytes at most
        ids = dataset.read(piece.source, piece.document)[piece.first_token : end]
        text = tokenizer.decode(ids.tolist())[:n_characters]
    name = document_id(dataset, piece.source, piece.document)
    return Part(row=row, rank=rank, id=name, text=text, **dataclasses.asdict(piece))


def print_step(found: StepInspection, options: InspectOptions) -> None:
    """Print a line for each part, and what the step took of each source."""
    console = Console()
    columns = ["row", "rank", "source", "document", "id", "first token", "tokens", "epoch"]
    table = Table(*columns, *(["text"] if options.text else []))
    for part in found.parts:
        values: list[Any] = [part.row, part.rank, part.source, part.document, part.id]
        values += [part.first_token, part.n_tokens, part.epoch]
        values += [part.text.replace("\n", " ")] if options.text else []
        table.add_row(*(Text(str(value), overflow="fold") for value in values))
    console.print(table)
    n_tokens: Counter[str] = Counter()
    for part in found.parts:
        n_tokens[part.source] += part.n_tokens
    for source, epochs in found.epochs.items():
        console.print(
            f"{source}: {n_tokens[source]:,} tokens in these rows; read {epochs:.3f} times by the "
            f"end of step {found.step:,}",
            soft_wrap=True,
        )
    held = found.held_to or "no checkpoint, since there is none"
    console.print(f"held to {held}", soft_wrap=True)
    if found.skipped:
        console.print(f"the step changed no weight: {found.skipped}", soft_wrap=True)


if __name__ == "__main__":
    run_program(run, InspectOptions, sys.argv[1:])
