"""Bits per byte of held-out documents, each read whole.

    bits per byte = sum of nats over all targets of a document / ln 2 / UTF-8 bytes of its text

A document is read from its start with the state carried along, so that neither the length of a
row nor what else is in a batch decides what the model has seen. The end of a document is a target
too and is charged to the model. No constant of tokens per byte enters.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from evals.baselines import measure_baselines
from evals.contract import Measure, Result, hash_texts
from evals.evaluation import Evaluation
from evals.examinee import Examinee, held_out_text
from evals.options import Options
from evals.scoring import document_row, score_rows
from evals.twins import describe_twins, measure_twins
from helix.config import ConfigError
from helix.data import ValidationSource
from helix.data.names import document_facts
from helix.scoring import PIECE_TOKENS, Row

UNIT = "bits/byte"
PLAUSIBLE = 0.25  # bits per byte; below it the text was most likely trained on
FEW_DOCUMENTS = 30
FIRST_POSITIONS = 64  # of a document; figures by position double from there


@dataclass(frozen=True, kw_only=True)
class BitsPerByteOptions(Options):
    """Options of `helix evaluate bits_per_byte`.

    Attributes:
        max_bytes: Text of each source, in UTF-8 bytes, chosen by the documents' hashes; all that
            is held out where it is not given.
    """

    max_bytes: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_bytes is not None and self.max_bytes < 1:
            raise ConfigError(f"max_bytes={self.max_bytes}: give at least 1, or leave it out")


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One held-out document and what it cost.

    Attributes:
        pair: The same in all translations of one text; empty where there are none.
        nats: Of each target.
    """

    source: str
    language: str
    domain: str
    pair: str
    text: str
    nats: NDArray[np.float64]

    @property
    def bits(self) -> float:
        """All of it."""
        return float(self.nats.sum()) / math.log(2)

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of the text."""
        return len(self.text.encode())


def measure(examinee: Examinee, options: BitsPerByteOptions) -> Result:
    """Score a model on held-out documents."""
    sources = held_out_text(examinee, options, max_bytes=options.max_bytes)
    documents = [d for source in sources for d in score_source(examinee, source, options)]
    by_source = group(documents, lambda document: document.source)
    parts = {f"source/{name}": own for name, own in by_source.items()}
    for language, own in group(documents, lambda document: document.language).items():
        if len({document.source for document in own}) > 1:  # or it is a source's own figure again
            parts[f"language/{language}"] = own
    for domain, own in group(documents, domain_of).items():
        if domain:
            parts[f"domain/{domain}"] = own
    measures = {
        f"{name}/bits_per_byte": measure_bits(own) for name, own in parts.items()
    } | measure_twins(documents)
    figures = {
        "sources": {name: describe_source(own) for name, own in by_source.items()},
        "twins": describe_twins(documents),
    }
    return Result(
        evaluation=EVALUATION.name,
        subject=examinee.subject,
        settings={"piece_tokens": PIECE_TOKENS},
        sets={name: hash_texts(d.text for d in own) for name, own in by_source.items()},
        measures=measures,
        figures=figures,
        warnings=find_warnings(measures, figures["sources"]),
    )


def score_source(
    examinee: Examinee, source: ValidationSource, options: BitsPerByteOptions
) -> list[Scored]:
    """Read every document of a source."""
    documents = list(source.rows())
    texts = [source.tokenizer.decode(ids.tolist()) for ids in documents]
    if examinee.tokenizer.fingerprint == source.tokenizer.fingerprint:
        rows = [Row(ids) for ids in documents]
    else:
        rows = [document_row(examinee.tokenizer, text) for text in texts]
    scores = score_rows(examinee, rows, options, title=f"score {source.name}")
    facts = document_facts(source.dataset, source.name, source.documents)
    return [
        Scored(
            source=source.name,
            language=source.language,
            domain=fact.domain,
            pair=fact.pair,
            text=text,
            nats=own.nats,
        )
        for text, own, fact in zip(texts, scores, facts, strict=True)
    ]


def group(documents: Sequence[Scored], key: Callable[[Scored], str]) -> dict[str, list[Scored]]:
    """Put documents together that share a key, in the order of keys."""
    groups: dict[str, list[Scored]] = {}
    for document in documents:
        groups.setdefault(key(document), []).append(document)
    return dict(sorted(groups.items()))


def domain_of(document: Scored) -> str:
    """Give the domain of a document in its language; empty where nobody said."""
    return f"{document.domain}/{document.language}" if document.domain else ""


def measure_bits(documents: Sequence[Scored]) -> Measure:
    """Measure bits per byte over some documents."""
    return Measure(
        numerators=[document.bits for document in documents],
        denominators=[float(document.n_bytes) for document in documents],
        unit=UNIT,
        is_lower_better=True,
    )


def describe_source(documents: Sequence[Scored]) -> dict[str, Any]:
    """Name what a source's figures are read beside: baselines on the same bytes, and positions."""
    text = "".join(document.text for document in documents).encode()
    return {
        "language": documents[0].language,
        "n_documents": len(documents),
        "n_bytes": len(text),
        "n_tokens": sum(len(document.nats) for document in documents),
        "nats_per_token_by_position": by_position(documents),
        "baselines": asdict(measure_baselines(text)),
    }


def by_position(documents: Sequence[Scored]) -> dict[str, float]:
    """Give nats per token at the positions 0 to 63, 64 to 127, 128 to 255 ... of documents."""
    totals: dict[str, tuple[float, int]] = {}
    for document in documents:
        for name, part in positions(len(document.nats)):
            nats, n_targets = totals.get(name, (0.0, 0))
            own = document.nats[part]
            totals[name] = nats + float(own.sum()), n_targets + len(own)
    return {name: nats / n_targets for name, (nats, n_targets) in totals.items()}


def positions(n_tokens: int) -> Iterator[tuple[str, slice]]:
    """Cut a document into parts that double in length."""
    start, end = 0, FIRST_POSITIONS
    while start < n_tokens:
        yield f"{start}-{end - 1}", slice(start, end)
        start, end = end, 2 * end


def find_warnings(measures: dict[str, Measure], sources: dict[str, Any]) -> list[str]:
    """Say what a reader must know before believing the figures."""
    warnings = []
    by_language: dict[str, list[str]] = {}
    for name, own in sources.items():
        value = measures[f"source/{name}/bits_per_byte"].value
        by_language.setdefault(own["language"], []).append(name)
        if value < PLAUSIBLE:
            warnings.append(
                f"{name}: {value:.3f} bits per byte is implausibly few: was this text trained on?"
            )
        if value > own["baselines"]["order1"]:
            warnings.append(f"{name}: worse than counts of pairs of bytes")
        if own["n_documents"] < FEW_DOCUMENTS:
            warnings.append(f"{name}: {own['n_documents']} documents say little")
    warnings += [
        f"{language}: all of one source, {names[0]}: no figure for the language at large"
        for language, names in by_language.items()
        if len(names) == 1
    ]
    return warnings


def show(result: Result, console: Console) -> None:
    """Print a table for a person."""
    subject = result.subject
    at = "" if subject.step is None else f", step {subject.step}"
    table = Table(title=f"Bits per byte, {subject.name}{at}", box=SIMPLE)
    for name in ("", "bits/byte", "+-95%", "order-1", "gzip", "xz", "ppm", "docs", "kB"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, measure in result.measures.items():
        if not name.endswith("/bits_per_byte"):
            continue
        low, high = measure.interval_95
        part = name.removesuffix("/bits_per_byte")
        own = result.figures["sources"].get(part.removeprefix("source/"), {})
        table.add_row(
            part,
            f"{measure.value:.4f}",
            f"{(high - low) / 2:.3f}",
            *(show_bits(own.get("baselines", {}).get(b)) for b in ("order1", "gzip", "xz", "ppm")),
            f"{len(measure.numerators):,}",
            f"{math.fsum(measure.denominators) / 1e3:,.0f}",
        )
    console.print(table)
    for name, own in result.figures["twins"].items():
        low, high = own["gap_interval_95"]
        console.print(
            f"{name}, {own['n_pairs']} translated twins: {own['gap_per_byte']:.3f} times the bits "
            f"per byte ({low:.3f}-{high:.3f}), {own['gap_per_document']:.3f} times the bits per "
            "document",
            soft_wrap=True,
        )


def show_bits(value: float | None) -> str:
    """Write a baseline, or nothing."""
    return "" if value is None else f"{value:.3f}"


EVALUATION = Evaluation("bits_per_byte", BitsPerByteOptions, measure, show)
