"""What sparse layers are for, shown on two cores: associative recall with them and without.

    python -m evals.recall_demo out=FOLDER

hybrid_tiny is trained on pairs of a key and a value and on keys asked for again, by the trainer
that trains every run; so are the same without its sparse layer, and two with plain attention. Its
recurrent layers are given keys of width 4 instead of 32 and 16, for 22 pairs to be many. All are
evaluated as `helix evaluate recall` does. What theory says beforehand:

- A recurrent layer keeps the sum of v k^T over its pairs. Of keys of width d no more than d are
  orthogonal (Schlag et al. 2021, arXiv:2102.11174, section 4.1): beyond 4 pairs they overlap, and
  the more pairs, the fewer are found.
- A layer of attention keeps each key apart: all pairs within its window are found, however many.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from data_tools.documents import Document
from data_tools.make_shards import make_shards
from data_tools.options import run_program
from evals.contract import Result, save_results
from evals.examinee import open_examinee
from evals.recall import measure
from evals.recall.associative import draw_keys, share_slots
from evals.recall.plan import RecallOptions
from evals.recall.symbols import Symbols, find_symbols
from helix.config import ConfigError, RunConfig, load, write_whole
from helix.distributed import derive_seed
from helix.presets import PRESETS
from helix.tokenizer import ByteTokenizer
from helix.training.trainer import train

N_CONTEXT = 64
N_SYMBOLS = 48  # half of them keys; with all 94 so short a training does not teach to match them
# Pairs of a table, each as often, 1 twice as often: that values come again is learned from few.
PAIRS = (1, 1, 2, 3, 4, 6, 8, 12, 16, 22)
FEW_PAIRS = 4  # up to which a document holds two tables: of one there are not enough to differ
LENGTHS = (12, 24, 48, 62)  # not 64: there every document of training ends, and so the model says
VALIDATION_FRACTION = 0.01
CHECKPOINTS = 4
VARIANTS = {
    "hybrid_tiny": "mamba2 gla sparse",
    "without_sparse": "mamba2 gla gla",
    "mamba2_attention": "mamba2 attention*2",
    "attention": "attention*3",
}
WORDS = (
    "preset=hybrid_tiny",
    "tokenizer.kind=byte",
    f"model.n_vocab={ByteTokenizer.n_vocab}",
    "model.mamba2.d_state=4",
    "model.gla={n_heads: 2, key_ratio: 0.0625}",
    f"data.n_context={N_CONTEXT}",
    # documents of one pair and of 22 differ in loss as text does not: nothing is a spike here
    "guard.loss_score=0",
    "guard.gradient_score=0",
    "training.validate_every_steps=0",
)


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Options of the demonstration.

    Attributes:
        out: Folder for data, runs and results; one that was stopped goes on in it.
        n_steps: Of each training; the default takes about 3 minutes on two cores.
        batch_rows: Documents of a step.
        n_items: Rows that each length is evaluated on.
        variants: Names with commas between them.
        seed: Of data, weights and order.
    """

    out: str
    n_steps: int = 1000
    batch_rows: int = 32
    n_items: int = 64
    variants: str = ",".join(VARIANTS)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_rows", "n_items"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: give at least 1")
        for name in self.names:
            if name not in VARIANTS:
                raise ConfigError(f"variants={name}: give some of {', '.join(VARIANTS)}")

    @property
    def names(self) -> list[str]:
        """The variants, in order."""
        return self.variants.split(",")


def run(options: DemoOptions) -> dict[str, Any]:
    """Make the data, train and evaluate each variant; print and write the table."""
    folder = Path(options.out)
    prepare(folder, options)
    runs: dict[str, dict[str, Any]] = {}
    for name in options.names:
        config = make_config(folder, name, options)
        cost = train_once(config)
        result = evaluate_run(config, options)
        save_results([result], Path(config.run_dir) / "recall.json")
        runs[name] = describe_run(config, result, cost)
    written = {
        "what": "associative recall: share of values found again, by the pairs of a row",
        "command": "python -m evals.recall_demo out=FOLDER "
        f"n_steps={options.n_steps} batch_rows={options.batch_rows} seed={options.seed}",
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: metadata.version(name) for name in ("torch", "deepspeed", "numpy")},
        "settings": {
            "words": WORDS,
            "pairs": PAIRS,
            "n_symbols": N_SYMBOLS,
            "n_items": options.n_items,
        },
        "rows": [describe_row(length) for length in LENGTHS],
        "runs": runs,
    }
    write_whole(folder / "recall_demo.json", json.dumps(written, indent=1) + "\n")
    show(written, Console())
    return written


def prepare(folder: Path, options: DemoOptions) -> None:
    """Make the dataset, unless it is there.

    Raises:
        ConfigError: The folder holds data for other options.
    """
    note = folder / "demo.json"
    told = {"n_steps": options.n_steps, "batch_rows": options.batch_rows, "seed": options.seed}
    if note.exists():
        held = json.loads(note.read_text(encoding="utf-8"))
        if held != told:
            raise ConfigError(f"out={folder}: holds a demonstration of {held}; give another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    make_shards(
        list(draw_documents(options.n_steps * options.batch_rows, seed=options.seed)),
        ByteTokenizer(),
        folder / "data",
        validation_fraction=VALIDATION_FRACTION,
        replace=True,
    )
    write_whole(note, json.dumps(told) + "\n")


def draw_documents(n_documents: int, *, seed: int) -> Iterator[Document]:
    """Draw documents that fill a row of training each."""
    tokenizer = ByteTokenizer()
    symbols = find_symbols(tokenizer, N_SYMBOLS)
    for number in range(n_documents):
        rng = np.random.default_rng(derive_seed(seed, "recall demo", number))
        ids = draw_stream(symbols, n_pairs=int(rng.choice(PAIRS)), rng=rng)
        yield Document(
            id=str(number),
            text=tokenizer.decode(ids),
            source="recall",
            language="",
            licence="CC0-1.0",
        )


def draw_stream(symbols: Symbols, *, n_pairs: int, rng: np.random.Generator) -> list[int]:
    """Draw the ids of a document: a table of pairs, then all of them again and again in new orders.

    With the ids of its start and end it has N_CONTEXT + 1, which is a row of training.
    """
    n_tables = 2 if n_pairs <= FEW_PAIRS else 1
    n_slots = N_CONTEXT // 2 // n_tables
    keys = draw_keys(symbols, n_tables * n_pairs, n_tokens=1, rng=rng)[:, 0]
    values = rng.choice(symbols.values, n_tables * n_pairs)
    orders = []
    for table in range(n_tables):
        n_rounds = -(-n_slots // n_pairs) - 1
        rounds = [np.arange(n_pairs), *(rng.permutation(n_pairs) for _ in range(n_rounds))]
        orders.append(table * n_pairs + np.concatenate(rounds)[:n_slots])
    order = np.concatenate(orders)
    return np.stack((keys[order], values[order]), axis=1).ravel()[: N_CONTEXT - 1].tolist()


def make_config(folder: Path, name: str, options: DemoOptions) -> RunConfig:
    """Compose the run of one variant."""
    words = [
        *WORDS,
        f"run_dir={folder / name}",
        f"data.path={folder / 'data'}",
        f"model.pattern={VARIANTS[name]}",
        f"training.n_steps={options.n_steps}",
        f"training.batch_rows={options.batch_rows}",
        f"training.micro_batch_rows={options.batch_rows}",
        f"training.checkpoint_every_steps={max(options.n_steps // CHECKPOINTS, 1)}",
        f"schedule.n_warmup_steps={min(60, options.n_steps // 4)}",
        f"seed={options.seed}",
    ]
    return load(words, PRESETS)


def train_once(config: RunConfig) -> dict[str, float]:
    """Train to the end, unless that was done; tell what it took, over all attempts."""
    note = Path(config.run_dir) / "cost.json"
    cost = {"wall_s": 0.0, "cpu_s": 0.0, "is_done": False}
    if note.exists():
        cost = json.loads(note.read_text(encoding="utf-8"))
    if not cost["is_done"]:
        wall, cpu = time.perf_counter(), time.process_time()
        stopped_by = train(config)
        cost["wall_s"] += time.perf_counter() - wall
        cost["cpu_s"] += time.process_time() - cpu
        cost["is_done"] = not stopped_by
        write_whole(note, json.dumps(cost) + "\n")
        if stopped_by:
            raise SystemExit(128 + stopped_by)
    return {key: cost[key] for key in ("wall_s", "cpu_s")}


def evaluate_run(config: RunConfig, options: DemoOptions) -> Result:
    """Evaluate a run as `helix evaluate recall` does."""
    asked = RecallOptions(
        run_dir=config.run_dir,
        tasks="associative_recall",
        lengths=",".join(map(str, LENGTHS)),
        n_items=options.n_items,
        n_symbols=N_SYMBOLS,
    )
    return measure(open_examinee(asked), asked)


def describe_run(config: RunConfig, result: Result, cost: dict[str, float]) -> dict[str, Any]:
    """Gather the figures of a variant."""
    accuracy = [result.measures[f"associative_recall/{length}/accuracy"] for length in LENGTHS]
    training = config.training
    return {
        "pattern": config.model.pattern,
        "n_parameters": result.subject.n_parameters,
        "state_bytes": config.model.state_bytes(N_CONTEXT, bytes_per_value=4),
        "n_tokens": training.n_steps * training.batch_rows * N_CONTEXT,
        **{key: round(value, 1) for key, value in cost.items()},
        "accuracy": [round(own.value, 4) for own in accuracy],
        "interval_95": [[round(end, 4) for end in own.interval_95] for own in accuracy],
    }


def describe_row(length: int) -> dict[str, Any]:
    """Say what the rows of a length hold, and how often a guess among their values is right."""
    n_pairs, n_queries, _ = share_slots(find_symbols(ByteTokenizer(), N_SYMBOLS), length)
    return {
        "length": length,
        "n_pairs": n_pairs,
        "n_queries": n_queries,
        "guess": round(1 / n_pairs, 4),
    }


def show(written: dict[str, Any], console: Console) -> None:
    """Print the table."""
    table = Table(title="Values found again")
    for column in ("pairs", "tokens", *written["runs"], "guess"):
        table.add_column(column, justify="right")
    for number, row in enumerate(written["rows"]):
        cells = [f"{own['accuracy'][number]:.3f}" for own in written["runs"].values()]
        table.add_row(str(row["n_pairs"]), str(row["length"]), *cells, f"{row['guess']:.3f}")
    console.print(table)
    for name, own in written["runs"].items():
        console.print(
            f"{name}: {own['pattern']}; {own['n_parameters']:,} parameters, a state of "
            f"{own['state_bytes']:,} bytes; {own['n_tokens']:,} tokens in {own['wall_s']:.0f} s "
            f"({own['cpu_s']:.0f} s of CPU)",
            highlight=False,
        )


if __name__ == "__main__":
    run_program(run, DemoOptions, sys.argv[1:])
