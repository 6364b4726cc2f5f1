"""Stats: what a dataset holds, by split, source and language, from its manifest and indexes."""

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np

from data_tools.clean.report import lay_out
from data_tools.options import run_program
from helix.data import DataError, Dataset
from helix.data.shards import SPLITS
from helix.tokenizer import Tokenizer, load_named

QUANTILES = {"shortest": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "longest": 1.0}
NAMED_LICENCES = 6
N_SAMPLED = 500  # documents whose words are counted, evenly spaced; all of a smaller source


@dataclass(frozen=True, kw_only=True)
class StatsOptions:
    """Options of `stats`.

    Attributes:
        path: Folder of the dataset.
        tokenizer: .model file, or "byte": count words too, on a sample of each source.
        plot: .png to draw the lengths of documents to.
        json: Print it for machines.
    """

    path: str
    tokenizer: str | None = None
    plot: str | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if self.plot is not None and not self.plot.endswith(".png"):
            raise ValueError(f"plot={self.plot}: give a file that ends in .png")


@dataclass(frozen=True, kw_only=True)
class SourceStats:
    """What a split holds of one source.

    Attributes:
        n_tokens: Ids, with the bos and eos of each document.
        n_bytes: UTF-8 bytes of the text.
        share: Of the split's tokens.
        tokens_per_byte: Without bos and eos.
        tokens_per_100_words: Likewise; None where it was not counted.
        lengths: Quantiles of the documents' tokens.
        histogram: Number of documents of 2^i up to 2^(i + 1) - 1 tokens.
    """

    split: str
    source: str
    language: str
    licences: tuple[str, ...]
    n_shards: int
    n_documents: int
    n_tokens: int
    n_bytes: int
    share: float
    tokens_per_byte: float
    tokens_per_100_words: float | None
    lengths: dict[str, int]
    histogram: tuple[int, ...]


def run(options: StatsOptions) -> list[SourceStats]:
    """Count, print and draw.

    Raises:
        DataError: There is no dataset, it is damaged, or made with another tokenizer.
    """
    found = collect_stats(options.path, tokenizer=read_tokenizer(options.tokenizer))
    if options.json:
        rows = [asdict(stats) for stats in found]
        json.dump(rows, sys.stdout, indent=1, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        print_stats(found)
    if options.plot is not None:
        plot_lengths(found, Path(options.plot))
    return found


def read_tokenizer(name: str | None) -> Tokenizer | None:
    """Load a .model file or the bytes."""
    if name is None:
        return None
    return load_named(name)


def collect_stats(path: str | Path, *, tokenizer: Tokenizer | None = None) -> list[SourceStats]:
    """Count what each split holds of each source.

    Args:
        tokenizer: Of the dataset; with it, words are counted too.
    """
    found = []
    for split in SPLITS:
        dataset = Dataset.open(path, split=split)
        if tokenizer is not None:
            dataset.check_tokenizer(tokenizer)
        n_tokens = sum(source.n_tokens for source in dataset.sources.values())
        for name in dataset.sources:
            found.append(describe_source(dataset, name, n_tokens, tokenizer))
        dataset.close()
    return found


def describe_source(
    dataset: Dataset, name: str, n_split_tokens: int, tokenizer: Tokenizer | None
) -> SourceStats:
    """Count what a split holds of one source."""
    source, index = dataset.sources[name], dataset.indexes[name]
    quantiles = np.quantile(index.n_ids, list(QUANTILES.values()), method="nearest")
    powers = np.frexp(index.n_ids.astype(np.float64))[1] - 1  # the exponent of the leading bit
    return SourceStats(
        split=dataset.split,
        source=name,
        language=source.language,
        licences=source.licences,
        n_shards=len(source.shards),
        n_documents=source.n_documents,
        n_tokens=source.n_tokens,
        n_bytes=source.n_bytes,
        share=source.n_tokens / n_split_tokens,
        tokens_per_byte=(source.n_tokens - 2 * source.n_documents) / source.n_bytes,
        tokens_per_100_words=tokenizer and count_per_100_words(dataset, name, tokenizer),
        lengths=dict(zip(QUANTILES, (int(length) for length in quantiles), strict=True)),
        histogram=tuple(np.bincount(powers).tolist()),
    )


def count_per_100_words(dataset: Dataset, source: str, tokenizer: Tokenizer) -> float:
    """Count tokens per 100 words, which are what white space parts, on evenly spaced documents."""
    n_documents = len(dataset.indexes[source])
    documents = np.unique(np.linspace(0, n_documents - 1, min(N_SAMPLED, n_documents), dtype=int))
    n_tokens = n_words = 0
    for document in documents.tolist():
        ids = dataset.read(source, document).tolist()
        n_tokens += len(ids) - 2
        n_words += len(tokenizer.decode(ids).split())
    return 100 * n_tokens / max(n_words, 1)


def print_stats(found: Sequence[SourceStats]) -> None:
    """Print a row for each source of each split, totals by language, the licences."""
    head = ("split", "source", "language", "documents", "tokens", "share", "MB")
    rows: list[tuple[str, ...]] = []
    rows.append((*head, "tokens/byte", "/100 words", "shards", *QUANTILES))
    for stats in found:
        words = stats.tokens_per_100_words
        rows.append(
            (
                stats.split,
                stats.source,
                stats.language,
                f"{stats.n_documents:,}",
                f"{stats.n_tokens:,}",
                f"{stats.share:.1%}",
                f"{stats.n_bytes / 1e6:,.2f}",
                f"{stats.tokens_per_byte:.4f}",
                "" if words is None else f"{words:.1f}",
                str(stats.n_shards),
                *(f"{length:,}" for length in stats.lengths.values()),
            )
        )
    print(lay_out(rows, n_left=3))
    print(f"({', '.join(QUANTILES)}: tokens of a document)")
    for (split, language), n_tokens in sum_by_language(found).items():
        print(f"{split}, {language}: {n_tokens:,} tokens")
    licences = sorted({licence for stats in found for licence in stats.licences})
    rest = f"; and {len(licences) - NAMED_LICENCES} more: json=true names them"
    named = "; ".join(licences[:NAMED_LICENCES])
    print(f"licences: {named}{rest if len(licences) > NAMED_LICENCES else ''}")


def sum_by_language(found: Sequence[SourceStats]) -> dict[tuple[str, str], int]:
    """Add up the tokens of each split and language."""
    totals: dict[tuple[str, str], int] = defaultdict(int)
    for stats in found:
        totals[stats.split, stats.language] += stats.n_tokens
    return dict(totals)


def plot_lengths(found: Sequence[SourceStats], file: Path) -> None:
    """Draw how long the documents of the training split are."""
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    if not file.parent.is_dir():
        raise DataError(f"plot={file}: there is no folder {file.parent}")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = cast(Axes, figure.subplots())
    for stats in found:
        if stats.split == "train":
            edges = 2.0 ** np.arange(len(stats.histogram) + 1)
            axes.stairs(stats.histogram, edges, label=f"{stats.source} ({stats.n_documents:,})")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="tokens in a document", ylabel="documents", title="Length of documents")
    axes.legend()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    run_program(run, StatsOptions, sys.argv[1:])
