"""Train a tokenizer: a SentencePiece vocabulary that gives every text back as it was.

Byte fallback, identity normalisation, no dummy prefix, digits one by one, and a piece for the
newline. Pieces do not reach over a line's end.
"""

import io
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sentencepiece

from data_tools.documents import Document, cut_block, read_documents
from data_tools.options import run_program
from helix.data import DataError
from helix.tokenizer import SentencePieceTokenizer

ModelType = Literal["unigram", "bpe"]
N_RESERVED = 4 + 256 + 1  # pad, unk, bos, eos; the bytes; the newline
# a constant, not the machine's cores: the sums of unigram's expectations are split by thread, and
# their rounding with them; the same text must give the same vocabulary everywhere
N_THREADS = 4
LINE_CHARACTERS = 4000  # SentencePiece skips, silently, a line over max_sentence_length bytes


@dataclass(frozen=True, kw_only=True)
class TrainTokenizerOptions:
    """Options of `train-tokenizer`.

    Attributes:
        inputs: .txt and .jsonl files, or folders of them.
        out: .model file to write.
        n_vocab: Ids at the most; fewer where the text holds fewer pieces.
    """

    inputs: tuple[str, ...]
    out: str
    n_vocab: int = 8000
    model_type: ModelType = "unigram"


def run(options: TrainTokenizerOptions) -> SentencePieceTokenizer:
    """Train on a person's own files."""
    return train_tokenizer(
        read_documents(options.inputs),
        options.out,
        n_vocab=options.n_vocab,
        model_type=options.model_type,
    )


def train_tokenizer(
    documents: Iterable[Document],
    path: str | Path,
    *,
    n_vocab: int = 8000,
    model_type: ModelType = "unigram",
) -> SentencePieceTokenizer:
    """Train a vocabulary and write it to `path`; the same text gives the same bytes.

    Args:
        n_vocab: Ids at the most. A text too small for so many gets as many as it can fill: see
            `n_vocab` of the result.

    Raises:
        DataError: There is no text, or n_vocab is too small for its characters.
    """
    if n_vocab <= N_RESERVED:
        raise DataError(
            f"n_vocab={n_vocab}: too small; {N_RESERVED} ids are reserved for the bytes, the "
            "newline and the special pieces, give at least 512"
        )
    lines = list(training_lines(documents))
    if not lines:
        raise DataError("no text to train the tokenizer on; give documents that hold some")
    model = train_model(lines, n_vocab, model_type)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(model)
    partial.replace(path)
    return SentencePieceTokenizer(path)


def training_lines(documents: Iterable[Document]) -> Iterator[str]:
    """Yield the lines of the documents, without those that hold only space."""
    for document in documents:
        for line in document.text.split("\n"):
            if line.strip():
                yield from cut_block(line.replace("\0", ""), LINE_CHARACTERS)


def train_model(lines: list[str], n_vocab: int, model_type: ModelType) -> bytes:
    """Run SentencePiece, with fewer ids if it cannot fill as many."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=model_type,
            vocab_size=n_vocab,
            hard_vocab_limit=False,
            character_coverage=0.9995,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            user_defined_symbols=["\n"],
            max_sentence_length=4 * LINE_CHARACTERS,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            num_threads=N_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        if too_high := re.search(r"set it to a value <= (\d+)", str(error)):
            return train_model(lines, int(too_high[1]), model_type)
        if too_small := re.search(r"smaller than required_chars.*?(\d+) vs (\d+)", str(error)):
            raise DataError(
                f"n_vocab={n_vocab}: too small; the characters of this text alone take "
                f"{too_small[2]} ids, give more than that"
            ) from None
        raise DataError(f"SentencePiece cannot train on this text: {error}") from None
    return model.getvalue()


if __name__ == "__main__":
    run_program(run, TrainTokenizerOptions, sys.argv[1:])
