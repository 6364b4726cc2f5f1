"""Tokenizer: text to ids and back, without the loss of a single byte.

SentencePiece has two blind spots, both closed here: it writes a space as U+2581 and so cannot
tell that character from a space, and it stops at U+0000. Both go in as their UTF-8 bytes, for
which a byte-fallback vocabulary has ids.
"""

import codecs
import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sentencepiece

SPACE_PIECE = "\u2581"  # how SentencePiece writes a space inside a piece
BLIND_SPOTS = re.compile("([\u0000\u2581]+)")
# what a vocabulary must carry unharmed: spaces at every place, tab, newline, a compatibility
# character (normalised away by nmt_nfkc), a character that no vocabulary holds
PROBE = "  Zwei  Leer\u2581zeichen\t\n\nﬁ ² \U0001f9ec\x00 "


class TokenizerError(ValueError):
    """A vocabulary or a text that cannot be used; the message says what to do."""


class Tokenizer(ABC):
    """Turn text into ids and ids into text; `decode(encode(text)) == text` for any Unicode text.

    Attributes:
        n_vocab: Number of ids; they run from 0 to n_vocab - 1.
        bos_id: Begins every document.
        eos_id: Ends every document.
        fingerprint: SHA-256, in hexadecimal, of what defines the tokenizer.
        symbol_ids: Ids of the reserved symbols (helix.chat) by name. No text encodes to one of
            them, not even text that spells the name.
    """

    n_vocab: int
    bos_id: int
    eos_id: int
    fingerprint: str
    symbol_ids: Mapping[str, int] = {}

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Turn text into ids, without bos and eos."""

    @abstractmethod
    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn each text into ids, on several cores where the library can."""

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """Give the UTF-8 bytes that one id stands for; empty for bos, eos, padding, symbols."""

    def symbol_id(self, name: str) -> int:
        """Give the id of a reserved symbol.

        Raises:
            TokenizerError: The vocabulary was trained without it.
        """
        try:
            return self.symbol_ids[name]
        except KeyError:
            raise TokenizerError(
                f"the tokenizer has no symbol {name}; train one with symbols=chat "
                "(helix data tokenizer)"
            ) from None

    def decode(self, ids: Iterable[int], *, symbols: bool = False) -> str:
        """Turn ids into text; bytes that are not UTF-8 become U+FFFD.

        Args:
            symbols: Write reserved symbols by their names, for a person to read: text that
                spells a name looks the same.
        """
        names = {token: name.encode() for name, token in self.symbol_ids.items() if symbols}
        parts = (names.get(token) or self.token_bytes(token) for token in ids)
        return b"".join(parts).decode("utf-8", errors="replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield text as soon as it is complete UTF-8; joined, it equals `decode`."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in ids:
            if text := decoder.decode(self.token_bytes(token)):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text


class ByteTokenizer(Tokenizer):
    """The 256 bytes, then bos and eos."""

    n_vocab = 258
    bos_id = 256
    eos_id = 257
    fingerprint = hashlib.sha256(b"helix byte tokenizer: 256 bytes, bos 256, eos 257").hexdigest()

    def encode(self, text: str) -> list[int]:
        """Give the UTF-8 bytes of the text."""
        return list(utf8(text))

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Give the UTF-8 bytes of each text."""
        return [self.encode(text) for text in texts]

    def token_bytes(self, token: int) -> bytes:
        """Give the byte itself; empty for bos and eos."""
        check_token(token, self.n_vocab)
        return bytes([token]) if token < 256 else b""


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model with byte fallback, identity normalisation and no dummy prefix.

    Raises:
        TokenizerError: The file is missing, is not a SentencePiece model, or loses text.
    """

    def __init__(self, model_file: str | os.PathLike[str]) -> None:
        self.model_file = os.path.expanduser(model_file)  # in tokenizer.path=~/x no shell does
        serialized = read_model(Path(self.model_file))
        self.processor = sentencepiece.SentencePieceProcessor()
        try:
            self.processor.LoadFromSerializedProto(serialized)
        except RuntimeError:
            raise TokenizerError(
                f"tokenizer.path={self.model_file}: not a SentencePiece model; "
                "give the .model file that helix data tokenizer wrote"
            ) from None
        self.fingerprint = hashlib.sha256(serialized).hexdigest()
        self.n_vocab = self.processor.vocab_size()
        self.bos_id = self.processor.bos_id()
        self.eos_id = self.processor.eos_id()
        self.bytes_of = [self.piece_bytes(token) for token in range(self.n_vocab)]
        self.byte_ids = {
            value[0]: token
            for token, value in enumerate(self.bytes_of)
            if self.processor.is_byte(token)
        }
        special = {self.bos_id, self.eos_id, self.processor.pad_id()}
        self.symbol_ids = {
            self.processor.id_to_piece(token): token
            for token in range(self.n_vocab)
            if self.processor.is_control(token) and token not in special
        }
        self.check()

    def encode(self, text: str) -> list[int]:
        """Turn text into ids; U+0000 and U+2581 go in as their bytes."""
        utf8(text)
        if BLIND_SPOTS.search(text) is None:
            return self.processor.encode(text)
        ids = []
        for part, is_blind in split_blind_spots(text):
            ids += map(self.byte_ids.__getitem__, utf8(part)) if is_blind else self.encode(part)
        return ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn each text into ids, on all the cores of this process."""
        plain = [index for index, text in enumerate(texts) if BLIND_SPOTS.search(text) is None]
        for index in plain:
            utf8(texts[index])
        encoded = self.processor.encode([texts[index] for index in plain], num_threads=n_cores())
        ids_of = dict(zip(plain, encoded, strict=True))
        return [
            ids_of[index] if index in ids_of else self.encode(text)
            for index, text in enumerate(texts)
        ]

    def token_bytes(self, token: int) -> bytes:
        """Give the bytes of a piece; U+FFFD for the unknown piece."""
        check_token(token, self.n_vocab)
        return self.bytes_of[token]

    def piece_bytes(self, token: int) -> bytes:
        """Read the bytes of a piece from the model."""
        piece = self.processor.id_to_piece(token)
        if self.processor.is_byte(token):
            return bytes([int(piece[3:5], 16)])  # "<0x0A>"
        if self.processor.is_control(token):
            return b""
        if self.processor.is_unknown(token):
            return "\ufffd".encode()
        return piece.replace(SPACE_PIECE, " ").encode()

    def check(self) -> None:
        """Refuse a model that has no bos or eos, or that changes text."""
        if min(self.bos_id, self.eos_id) < 0:
            raise TokenizerError(
                f"tokenizer.path={self.model_file}: the model has no bos or no eos piece; "
                "train it with both, as helix data tokenizer does"
            )
        if len(self.byte_ids) < 256 or self.decode(self.encode(PROBE)) != PROBE:
            raise TokenizerError(
                f"tokenizer.path={self.model_file}: the model changes text (it normalises, adds a "
                "prefix or has no byte fallback), so bits per byte would be wrong; train one with "
                "helix data tokenizer"
            )


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Which tokenizer, and where its file lies.

    Attributes:
        kind: "sentencepiece" reads `path`; "byte" needs no file.
        path: SentencePiece model file.
    """

    kind: Literal["sentencepiece", "byte"] = "sentencepiece"
    path: str | None = None

    def __post_init__(self) -> None:
        if self.kind == "byte" and self.path is not None:
            raise ValueError(
                f"tokenizer.path={self.path}: the byte tokenizer reads no file; leave it out"
            )


def load_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Load the tokenizer that a run names.

    Raises:
        TokenizerError: The model file is not named, missing, or not a SentencePiece model that
            keeps text as it is.
    """
    if config.kind == "byte":
        return ByteTokenizer()
    if config.path is None:
        raise TokenizerError(
            "tokenizer.path=None: give the SentencePiece model file, or tokenizer.kind=byte"
        )
    return SentencePieceTokenizer(config.path)


def load_named(name: str) -> Tokenizer:
    """Load a tokenizer by the one word that a tool is given: "byte", or a .model file."""
    if name == "byte":
        return load_tokenizer(TokenizerConfig(kind="byte"))
    return load_tokenizer(TokenizerConfig(path=name))


def n_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_model(path: Path) -> bytes:
    """Read a model file."""
    if not path.is_file():
        raise TokenizerError(
            f"tokenizer.path={path}: no such file; give the .model file that "
            "helix data tokenizer wrote"
        )
    serialized = path.read_bytes()
    if not serialized:
        raise TokenizerError(f"tokenizer.path={path}: the file is empty; train the tokenizer again")
    return serialized


def split_blind_spots(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the runs of text, and whether each is one that SentencePiece cannot see."""
    for index, part in enumerate(BLIND_SPOTS.split(text)):
        if part:
            yield part, index % 2 == 1


def utf8(text: str) -> bytes:
    """Encode text, or say which character has no UTF-8 form."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"character {error.start} of the text, U+{ord(text[error.start]):04X}, is half of a "
            "surrogate pair, or stands for a byte that is not UTF-8; convert the source to UTF-8"
        ) from None


def check_token(token: int, n_vocab: int) -> None:
    """Refuse an id outside the vocabulary."""
    if not 0 <= token < n_vocab:
        raise ValueError(f"token {token} is outside the vocabulary of {n_vocab} ids")
