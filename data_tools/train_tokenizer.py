"""Train a tokenizer: a SentencePiece vocabulary that gives every text back as it was.

Byte fallback, identity normalisation, no dummy prefix, digits one by one, and a piece for the
newline. Pieces do not reach over a line's end. Symbols of a chat are control pieces: no text
encodes to one.
"""

import io
import math
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import sentencepiece
from rich.console import Console

from data_tools.compare_tokenizers import compare
from data_tools.documents import Document, stream_documents, write_documents
from data_tools.options import run_program
from data_tools.text_options import TextOptions
from data_tools.tokenizer_gates import Symbols, check_gates, measure, read_limits, require
from data_tools.tokenizer_report import TokenizerReport, print_report, write_report
from data_tools.tokenizer_text import SENTENCE_CHARACTERS, HeldOut, sample_lines, training_lines
from helix.chat import SYMBOLS
from helix.data import DataError
from helix.preflight.memory import free_host_gib
from helix.tokenizer import SentencePieceTokenizer

ModelType = Literal["unigram", "bpe"]
N_RESERVED = 4 + 256 + 1  # pad, unk, bos, eos; the bytes; the newline
# a constant, not the machine's cores: the sums of unigram's expectations are split by thread, and
# their rounding with them; the same text must give the same vocabulary everywhere. 0 aborts.
N_THREADS = 4
# peak memory of training by byte of its sentences, rounded up; measured with SentencePiece 0.2.3 on
# 81 MB: unigram, 32,000 ids, 1.89 GB; bpe, 200,000 ids, 1.11 GB
BYTES_PER_BYTE: dict[str, float] = {"unigram": 22, "bpe": 12}
BASE_BYTES = 2**28


@dataclass(frozen=True, kw_only=True)
class TrainTokenizerOptions(TextOptions):
    """Options of `tokenizer`: train one (out=), or measure one that is there (check=).

    Attributes:
        out: .model file to write. Beside it go <out>.report.json and <out>.held_out.jsonl, the
            documents that were kept from training. A model that fails a gate goes to <out>.failed.
        check: .model file to measure, on inputs that it was not trained on.
        n_vocab: Ids at the most; fewer where the text holds fewer pieces.
        character_coverage: Share of the text's characters that get a piece; the others are
            written as bytes.
        symbols: "chat" reserves the 34 symbols of helix.chat.
        n_sentences: Lines to train on, drawn from all; null takes all.
        max_memory_gib: Refuse to train where the estimate is more; null is what is free.
        held_out_share: Of the documents, to measure on.
        gates: false keeps a model that fails them.
        limits: Tokens per 100 words at the most, as in limits=de:150,en:135, which is the default
            from 128,000 ids on; smaller ones have no limit but a given one. A given one fails
            where too little text is of its language. limits= is none.
        limit_domains: Domains of documents that the limits are held to; all where none is named.
            The default limits are of prose: tables and lists cost any vocabulary more.
        compare: Measure vocabularies of other models on the same text, out of npm packages.
        json: Print the report for machines.
    """

    out: str | None = None
    check: str | None = None
    n_vocab: int = 8000
    model_type: ModelType = "unigram"
    character_coverage: float = 0.99995
    symbols: Symbols = "chat"
    n_sentences: int | None = 5_000_000
    max_memory_gib: float | None = None
    held_out_share: float = 0.01
    gates: bool = True
    limits: str | None = None
    limit_domains: tuple[str, ...] = ()
    compare: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.out is None) == (self.check is None):
            raise ValueError("give out=... to train a tokenizer, or check=... to measure one")
        if not 0 < self.character_coverage <= 1:
            raise ValueError(
                f"character_coverage={self.character_coverage}: give a share above 0, at most 1"
            )
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"held_out_share={self.held_out_share}: give a share between 0 and 1")
        if self.n_sentences is not None and self.n_sentences < 1:
            raise ValueError(f"n_sentences={self.n_sentences}: give 1 or more, or null for all")
        if self.max_memory_gib is not None and not self.max_memory_gib > 0:
            raise ValueError(f"max_memory_gib={self.max_memory_gib}: give a number above 0")
        read_limits(self.limits, self.n_vocab)


def run(options: TrainTokenizerOptions) -> TokenizerReport:
    """Train on a person's own files, or read a model, and hold it to its gates.

    Raises:
        DataError: There is no text, or a gate failed.
    """
    if options.check is not None:
        tokenizer = SentencePieceTokenizer(options.check)
        documents = list(read_text(options))
        report = report_on(tokenizer, documents, options, n_vocab=tokenizer.n_vocab)
    else:
        assert options.out is not None
        report = train_and_measure(options, options.out)
    print_report(report, as_json=options.json)
    if options.gates:
        require(report.gates, report.model)
    return report


def read_text(options: TrainTokenizerOptions) -> Iterator[Document]:
    """Read the inputs, one document at a time."""
    return stream_documents(
        options.inputs, field=options.field, source=options.source, licence=options.licence
    )


def train_and_measure(options: TrainTokenizerOptions, out: str) -> TokenizerReport:
    """Train, measure on what was held out, and put the model where its gates say."""
    unproven = Path(f"{out}.unproven")
    held_out = HeldOut(options.held_out_share)
    began = time.perf_counter()
    with Console(stderr=True).status("training the tokenizer"):  # SentencePiece tells no progress
        tokenizer = train_tokenizer(
            held_out.part(read_text(options)),
            unproven,
            n_vocab=options.n_vocab,
            model_type=options.model_type,
            character_coverage=options.character_coverage,
            symbols=options.symbols,
            n_sentences=options.n_sentences,
            max_memory_gib=options.max_memory_gib,
        )
    train_s = time.perf_counter() - began
    report = report_on(
        tokenizer,
        held_out.documents,
        options,
        n_vocab=options.n_vocab,
        languages=held_out.languages,
    )
    has_failed = options.gates and not all(gate.has_passed for gate in report.gates)
    path = f"{out}.failed" if has_failed else out
    settings = asdict(options) | {"sentencepiece": sentencepiece.__version__}
    report = replace(report, model=path, settings=settings, train_s=train_s)
    write_documents(held_out.documents, f"{path}.held_out.jsonl")
    write_report(report, Path(f"{path}.report.json"))
    unproven.replace(path)
    return report


def report_on(
    tokenizer: SentencePieceTokenizer,
    documents: Sequence[Document],
    options: TrainTokenizerOptions,
    *,
    n_vocab: int,
    languages: Iterable[str] = (),
) -> TokenizerReport:
    """Measure a tokenizer on documents that it was not trained on.

    Args:
        n_vocab: Ids that were asked for; the default limits depend on them.
        languages: Languages that it was trained on, whether or not a document is of them.
    """
    began = time.perf_counter()
    measured = measure(tokenizer, documents)
    limits = read_limits(options.limits, n_vocab)
    measured_languages = {use.language for use in measured.uses}
    gates = check_gates(
        tokenizer,
        measured,
        limits=limits,
        domains=options.limit_domains,
        # limits that a person gave are all held: one of a misspelt language is no gate passed
        languages=limits if options.limits else {*languages, *measured_languages},
        symbols=options.symbols,
        texts=[document.text for document in documents],
    )
    measure_s = time.perf_counter() - began
    return TokenizerReport(
        model=tokenizer.model_file,
        fingerprint=tokenizer.fingerprint,
        n_vocab=tokenizer.n_vocab,
        n_symbols=len(tokenizer.symbol_ids),
        used_share=measured.used_share,
        uses=(*measured.languages, *(use for use in measured.uses if use.domain)),
        limits=limits,
        gates=tuple(gates),
        settings={},
        train_s=0.0,
        measure_s=measure_s,
        comparison=compare([tokenizer], documents) if options.compare else None,
    )


def train_tokenizer(
    documents: Iterable[Document],
    path: str | Path,
    *,
    n_vocab: int = 8000,
    model_type: ModelType = "unigram",
    character_coverage: float = 0.9995,
    symbols: Symbols = "none",
    n_sentences: int | None = None,
    max_memory_gib: float | None = None,
) -> SentencePieceTokenizer:
    """Train a vocabulary and write it to `path`; the same text gives the same bytes.

    Args:
        n_vocab: Ids at the most. A text too small for so many gets as many as it can fill: see
            `n_vocab` of the result.
        symbols: "chat" reserves the symbols of helix.chat, right after pad, unk, bos and eos.
        n_sentences: Lines to train on, drawn from all; None takes all.
        max_memory_gib: What training may need by estimate; None is what is free.

    Raises:
        DataError: There is no text, n_vocab is too small for its characters, or the memory is
            for so much text.
    """
    reserved = tuple(SYMBOLS) if symbols == "chat" else ()
    n_reserved = N_RESERVED + len(reserved)
    if n_vocab <= n_reserved:
        raise DataError(
            f"n_vocab={n_vocab}: too small; {n_reserved} ids are reserved for the bytes, the "
            "newline and the special pieces, give at least 512"
        )
    lines = sample_lines(training_lines(documents), n_sentences)
    if not lines:
        raise DataError("no text to train the tokenizer on; give documents that hold some")
    check_memory(lines, model_type, max_memory_gib)
    model = train_model(lines, n_vocab, model_type, character_coverage, reserved)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(model)
    partial.replace(path)
    return SentencePieceTokenizer(path)


def check_memory(lines: Sequence[str], model_type: ModelType, max_memory_gib: float | None) -> None:
    """Refuse to train where the memory would not do: the kernel would end the process."""
    n_bytes = sum(map(len, lines))  # of characters: enough for an estimate
    base_gib, text_gib = BASE_BYTES / 2**30, BYTES_PER_BYTE[model_type] * n_bytes / 2**30
    needed_gib = base_gib + text_gib
    allowed_gib = free_memory_gib() if max_memory_gib is None else max_memory_gib
    if needed_gib > allowed_gib:
        n_fitting = int(0.9 * len(lines) * max(allowed_gib - base_gib, 0) / text_gib)
        fewer = f"n_sentences={n_fitting} or fewer, or " if n_fitting else ""
        raise DataError(
            f"n_sentences: {model_type} training on {len(lines):,} lines of "
            f"{n_bytes / 1e6:,.1f} MB needs about {needed_gib:.1f} GiB, more than the "
            f"{allowed_gib:.1f} GiB that it may take; give {fewer}a larger max_memory_gib"
        )


def free_memory_gib() -> float:
    """Tell how much memory this process could take; infinite where nobody says."""
    try:
        return free_host_gib()
    except OSError:  # a system without /proc
        return math.inf


def train_model(
    lines: Sequence[str],
    n_vocab: int,
    model_type: ModelType,
    character_coverage: float,
    symbols: Sequence[str],
) -> bytes:
    """Run SentencePiece, with fewer ids if it cannot fill as many."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=model_type,
            vocab_size=n_vocab,
            hard_vocab_limit=False,
            character_coverage=character_coverage,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            control_symbols=list(symbols),
            user_defined_symbols=["\n"],
            max_sentence_length=4 * SENTENCE_CHARACTERS,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            num_threads=N_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        if too_high := re.search(r"set it to a value <= (\d+)", str(error)):
            return train_model(lines, int(too_high[1]), model_type, character_coverage, symbols)
        if too_small := re.search(r"smaller than required_chars.*?(\d+) vs (\d+)", str(error)):
            raise DataError(
                f"n_vocab={n_vocab}: too small; the characters of this text alone take "
                f"{too_small[2]} ids, give more than that"
            ) from None
        raise DataError(f"SentencePiece cannot train on this text: {error}") from None
    return model.getvalue()


if __name__ == "__main__":
    run_program(run, TrainTokenizerOptions, sys.argv[1:])
