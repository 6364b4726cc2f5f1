"""Bits per byte of held-out documents, each read whole.

    bits per byte = sum of nats over all targets of a document / ln 2 / UTF-8 bytes of its text

A document is read from its start with the state carried along, so that neither the length of a
row nor what else is in a batch decides what the model has seen. The end of a document is a target
too and is charged to the model. No constant of tokens per byte enters.

Dims: B documents, T tokens of a piece.
"""

import math
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from evals.baselines import measure_baselines
from evals.contract import Result, Subject
from helix import kernels
from helix.batch import IGNORED
from helix.config import ConfigError, read_saved
from helix.data import ValidationSource, build_validation
from helix.data.files import hash_file
from helix.data.progress import show_progress
from helix.generate import Loaded, load_model
from helix.models.base import LanguageModel, ModelState
from helix.presets import PRESETS
from helix.training import checkpoint

NAME = "bits_per_byte"
N_BOOTSTRAPS = 1000
INTERVAL = (0.025, 0.975)
PIECE_TOKENS = 1024  # read at a time; the state is carried to the next piece
PLAUSIBLE = 0.25  # bits per byte; below it the text was most likely trained on
FIRST_POSITIONS = 64  # of a document; figures by position double from there


@dataclass(frozen=True, kw_only=True)
class BitsPerByteConfig:
    """Options of `helix evaluate bits_per_byte`.

    Attributes:
        run_dir: Folder of a run.
        step: Of the checkpoint; or latest, or best.
        max_bytes: Text of each source, in UTF-8 bytes, chosen by the documents' hashes; all that
            is held out where it is not given.
        batch_documents: Documents read at a time.
        out: JSON file to write.
        json: Print JSON instead of a table.
    """

    run_dir: str
    step: str = "latest"
    max_bytes: int | None = None
    batch_documents: int = 8
    out: str = ""
    json: bool = False

    def __post_init__(self) -> None:
        if self.batch_documents < 1:
            raise ConfigError(f"batch_documents={self.batch_documents}: give at least 1")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise ConfigError(f"max_bytes={self.max_bytes}: give at least 1, or leave it out")


@dataclass(frozen=True)
class DocumentCosts:
    """What each document of a source costs, in the order of the set.

    Attributes:
        nats: Sum over its targets.
        n_bytes: UTF-8 bytes of its text.
        by_position: Sum of nats and number of targets, by position in the document.
    """

    nats: NDArray[np.float64]
    n_bytes: NDArray[np.int64]
    by_position: dict[str, tuple[float, int]]


def evaluate(options: BitsPerByteConfig) -> Result:
    """Evaluate a run's checkpoint, print a table, and write the result where it is asked for.

    Raises:
        ConfigError: There is no such run or checkpoint.
        DataError: The held-out text is missing or damaged.
    """
    config = read_saved(options.run_dir, PRESETS)
    path = checkpoint.find_intact(options.run_dir, options.step)
    loaded = load_model(config, path)
    subject = describe(options.run_dir, loaded, path)
    result = evaluate_model(loaded, subject, options)
    if options.out:
        result.save(options.out)
    if options.json:
        sys.stdout.write(result.to_json())
    else:
        print_result(result)
    return result


def evaluate_model(loaded: Loaded, subject: Subject, options: BitsPerByteConfig) -> Result:
    """Score a model on the held-out documents of its run's dataset."""
    data = replace(loaded.config.data, validation_bytes=options.max_bytes)
    sources = build_validation(data, loaded.tokenizer, rank=0, world_size=1, n_rows=1)
    figures: dict[str, Any] = {}
    for source in sources:
        costs = score_source(loaded.model, source, batch_documents=options.batch_documents)
        text = "".join(source.texts()).encode()
        figures[source.name] = describe_costs(source, costs, text)
    return Result(
        evaluation=NAME,
        subject=subject,
        settings={"piece_tokens": PIECE_TOKENS, "n_bootstraps": N_BOOTSTRAPS},
        sets={source.name: source.fingerprint for source in sources},
        figures=figures,
        warnings=find_warnings(figures),
    )


def score_source(
    model: LanguageModel, source: ValidationSource, *, batch_documents: int
) -> DocumentCosts:
    """Read every document of a source, those of like length together."""
    index = source.dataset.indexes[source.name]
    documents = np.array(source.documents)
    by_length = documents[np.argsort(index.n_ids[documents], kind="stable")]
    nats = dict.fromkeys(source.documents, 0.0)
    by_position: dict[str, tuple[float, int]] = {}
    starts = range(0, len(by_length), batch_documents)
    for start in show_progress(starts, f"score {source.name}"):
        chosen = by_length[start : start + batch_documents].tolist()
        rows = [source.dataset.read(source.name, document) for document in chosen]
        costs = score_documents(model, rows, padding=source.tokenizer.eos_id)
        for document, cost in zip(chosen, costs, strict=True):
            nats[document] = float(cost.sum())
            add_positions(by_position, cost)
    return DocumentCosts(
        nats=np.array([nats[document] for document in source.documents]),
        n_bytes=index.n_bytes[documents].astype(np.int64),
        by_position=by_position,
    )


@torch.no_grad()
def score_documents(
    model: LanguageModel, rows: Sequence[NDArray], *, padding: int
) -> list[NDArray[np.float64]]:
    """Give the nats of each target of each document, read from its first token.

    Args:
        rows: Ids of whole documents, with bos and eos.
        padding: Fills short rows up; nothing before it can see it.
    """
    device = next(model.parameters()).device
    longest = max(len(row) for row in rows) - 1
    tokens = np.full((len(rows), longest), padding, np.int64)
    targets = np.full((len(rows), longest), IGNORED, np.int64)
    for number, row in enumerate(rows):
        tokens[number, : len(row) - 1] = row[:-1]
        targets[number, : len(row) - 1] = row[1:]
    pieces: list[torch.Tensor] = []
    state: ModelState | None = None
    for start in range(0, longest, PIECE_TOKENS):
        piece = slice(start, start + PIECE_TOKENS)
        cost, state = model.score(
            torch.from_numpy(tokens[:, piece]).to(device),
            torch.from_numpy(targets[:, piece]).to(device),
            state,
        )
        pieces.append(cost.double().cpu())
    costs = torch.cat(pieces, dim=1).numpy()
    return [cost[: len(row) - 1] for cost, row in zip(costs, rows, strict=True)]


def add_positions(totals: dict[str, tuple[float, int]], cost: NDArray[np.float64]) -> None:
    """Add a document's costs to those of the positions 0 to 63, 64 to 127, 128 to 255 ..."""
    for name, part in positions(len(cost)):
        nats, n_targets = totals.get(name, (0.0, 0))
        totals[name] = nats + float(cost[part].sum()), n_targets + len(cost[part])


def positions(n_tokens: int) -> Iterator[tuple[str, slice]]:
    """Cut a document into parts that double in length."""
    start, end = 0, FIRST_POSITIONS
    while start < n_tokens:
        yield f"{start}-{end - 1}", slice(start, end)
        start, end = end, 2 * end


def describe_costs(source: ValidationSource, costs: DocumentCosts, text: bytes) -> dict[str, Any]:
    """Name the figures of a source, with baselines on the same bytes and an interval."""
    n_bytes = int(costs.n_bytes.sum())
    assert n_bytes == len(text), "the index and the text disagree on the bytes"
    low, high = interval(bootstrap(costs.nats, costs.n_bytes))
    baselines = measure_baselines(text)
    return {
        "language": source.language,
        "bits_per_byte": bits_per_byte(float(costs.nats.sum()), n_bytes),
        "interval_95": [low, high],
        "n_documents": len(costs.nats),
        "n_bytes": n_bytes,
        "bits_per_document": costs.nats.sum() / math.log(2) / len(costs.nats),
        "nats_per_token_by_position": {
            name: nats / n_targets for name, (nats, n_targets) in costs.by_position.items()
        },
        "baselines": {
            "order0": baselines.order0,
            "order1": baselines.order1,
            "gzip": 8 * len(zlib.compress(text, 9)) / n_bytes,
            "xz": baselines.xz,
        },
        "documents": {"nats": costs.nats.tolist(), "n_bytes": costs.n_bytes.tolist()},
    }


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Turn nats and bytes into bits per byte."""
    return nats / math.log(2) / n_bytes


def bootstrap(nats: NDArray[np.float64], n_bytes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Draw documents anew, each time as many, from a fixed seed; give the bits per byte of each."""
    draw = np.random.default_rng(0).multinomial(
        len(nats), np.full(len(nats), 1 / len(nats)), size=N_BOOTSTRAPS
    )
    return draw @ nats / math.log(2) / (draw @ n_bytes)


def interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Give the bounds between which 95% of the draws lie."""
    low, high = np.quantile(draws, INTERVAL)
    return float(low), float(high)


def find_warnings(figures: dict[str, Any]) -> list[str]:
    """Say what a reader must know before believing the figures."""
    warnings = []
    for name, own in figures.items():
        if own["bits_per_byte"] < PLAUSIBLE:
            warnings.append(
                f"{name}: {own['bits_per_byte']:.3f} bits per byte is implausibly few: was this "
                "text trained on?"
            )
        if own["bits_per_byte"] > own["baselines"]["order1"]:
            warnings.append(f"{name}: worse than counts of pairs of bytes")
        if own["n_documents"] < 30:
            warnings.append(f"{name}: {own['n_documents']} documents say little")
    by_language: dict[str, list[str]] = {}
    for name, own in figures.items():
        by_language.setdefault(own["language"], []).append(name)
    warnings += [
        f"{language}: all of one source, {names[0]}: no figure for the language at large"
        for language, names in by_language.items()
        if len(names) == 1
    ]
    return warnings


def describe(run_dir: str, loaded: Loaded, path: Path) -> Subject:
    """Say what is evaluated, and how."""
    device = next(loaded.model.parameters()).device
    chosen = {
        name: next(row.backend for row in kernels.candidates(name) if row.available)
        for name in kernels.BACKENDS
    }
    return Subject(
        name=run_dir,
        checkpoint=hash_file(path / "manifest.json"),
        step=checkpoint.read_state(path).progress.step,
        tokenizer=loaded.tokenizer.fingerprint,
        precision="fp32",
        backends=chosen,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    )


def print_result(result: Result) -> None:
    """Print a table for a person."""
    table = Table(title=f"Bits per byte, {result.subject.name}, step {result.subject.step}")
    for name in ("source", "bits/byte", "95%", "order-1", "gzip", "xz", "documents", "kB"):
        table.add_column(name, justify="left" if name == "source" else "right")
    for name, own in result.figures.items():
        low, high = own["interval_95"]
        base = own["baselines"]
        table.add_row(
            name,
            f"{own['bits_per_byte']:.4f}",
            f"{low:.3f}-{high:.3f}",
            f"{base['order1']:.3f}",
            f"{base['gzip']:.3f}",
            f"{base['xz']:.3f}",
            f"{own['n_documents']:,}",
            f"{own['n_bytes'] / 1e3:,.0f}",
        )
    console = Console()
    console.print(table)
    for warning in result.warnings:
        console.print(f"beware: {warning}", soft_wrap=True, markup=False)
