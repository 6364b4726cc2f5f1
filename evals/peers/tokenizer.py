"""The tokenizer of a model of others: its ids, and the bytes that each stands for."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from helix.tokenizer import SPACE_PIECE, Tokenizer, TokenizerError, check_token, utf8

BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}
BYTE_PIECES = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}

# What a text may hold, and whether a tokenizer that changes it can still be a peer's.
ESSENTIAL = {
    "loses spaces": "  zwei  leere zeichen ",
    "loses tabs or line ends": "a\tb\n\nc\r\n",
    "loses capitals or accents": "Äpfel, ÖL und Straße, naïve",
    "loses characters of other scripts": "漢字 кириллица \U0001f9ec",
}
RARE = {
    "changes compatibility characters": "ﬁ ²",
    "changes decomposed letters": "a\u0308",
    "takes U+2581 for a space": "a\u2581b",
    "changes U+0000": "a\x00b",
}


class HuggingFaceTokenizer(Tokenizer):
    """A fast tokenizer of transformers, without what it would add around a text.

    A text that spells a special token is encoded as text. bos is the tokenizer's own, else its
    eos, as models are trained that have no bos.

    Attributes:
        changes: What it does to rare text, in words; such text is scored as it is changed.

    Raises:
        TokenizerError: It has no fast form or no eos, or it loses common text.
    """

    def __init__(self, loaded: PreTrainedTokenizerBase, *, n_vocab: int, name: str) -> None:
        self.name = name
        backend = getattr(loaded, "backend_tokenizer", None)
        if backend is None:
            raise TokenizerError(f"model={name}: its tokenizer has no fast form (tokenizer.json)")
        self.bos_id, self.eos_id = find_ends(loaded, name)
        backend.no_truncation()
        backend.no_padding()
        definition = backend.to_str()
        ends = f"bos {self.bos_id}, eos {self.eos_id}"
        self.fingerprint = hashlib.sha256(f"{definition}{ends}".encode()).hexdigest()
        backend.encode_special_tokens = True
        self.backend = backend
        self.n_vocab = max(n_vocab, 1 + max(backend.get_vocab().values()))
        self.bytes_of = read_pieces(backend, json.loads(definition), self.n_vocab)
        self.prefix = self.decode(self.encode("a")).removesuffix("a")
        self.changes = self.find_changes()

    def encode(self, text: str) -> list[int]:
        """Turn text into ids."""
        utf8(text)
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn each text into ids, on all the cores of this process."""
        for text in texts:
            utf8(text)
        encoded = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [own.ids for own in encoded]

    def token_bytes(self, token: int) -> bytes:
        """Give the bytes of an id; empty for special tokens and ids that the vocabulary lacks."""
        check_token(token, self.n_vocab)
        return self.bytes_of[token]

    def find_changes(self) -> list[str]:
        """Refuse a tokenizer that loses common text, and name what else it changes."""
        lost = [what for what, text in ESSENTIAL.items() if not self.keeps(text)]
        if self.prefix.strip() or lost:
            raise TokenizerError(
                f"model={self.name}: its tokenizer {lost[0] if lost else 'adds text'}, so bits per "
                "byte would be wrong; take a model whose tokenizer keeps text"
            )
        changes = [what for what, text in RARE.items() if not self.keeps(text)]
        return [*(["puts a space before a text"] if self.prefix else []), *changes]

    def keeps(self, text: str) -> bool:
        """Tell whether a text comes back, but for a space before it."""
        return self.decode(self.encode(text)) == self.prefix + text


def find_ends(loaded: PreTrainedTokenizerBase, name: str) -> tuple[int, int]:
    """Give the ids that begin and end a document."""
    eos_id = loaded.eos_token_id
    if not isinstance(eos_id, int):
        raise TokenizerError(f"model={name}: its tokenizer names no eos token; set eos_token")
    bos_id = loaded.bos_token_id
    return (bos_id if isinstance(bos_id, int) else eos_id), eos_id


def read_pieces(backend: Any, definition: dict[str, Any], n_vocab: int) -> list[bytes]:
    """Read the bytes of every id."""
    added = {token["id"]: token for token in definition["added_tokens"]}
    is_byte_level = "ByteLevel" in kinds_of(definition["decoder"])
    falls_back = bool(definition["model"].get("byte_fallback"))
    unknown = definition["model"].get("unk_token")
    pieces = []
    for token in range(n_vocab):
        piece = backend.id_to_token(token)
        if piece is None or (token in added and added[token]["special"]):
            pieces.append(b"")
        elif token in added:
            pieces.append(piece.encode())
        elif is_byte_level:
            pieces.append(b"".join(byte_level(character) for character in piece))
        elif falls_back and piece in BYTE_PIECES:
            pieces.append(BYTE_PIECES[piece])
        else:
            text = "\ufffd" if piece == unknown else piece.replace(SPACE_PIECE, " ")
            pieces.append(text.encode())
    return pieces


def byte_level(character: str) -> bytes:
    """Give the byte that a character of a byte-level piece stands for."""
    return bytes([BYTE_OF[character]]) if character in BYTE_OF else character.encode()


def kinds_of(decoder: dict[str, Any] | None) -> set[str]:
    """Name the kinds of a decoder and of those that it is made of."""
    if decoder is None:
        return set()
    own = (kinds_of(part) for part in decoder.get("decoders", ()))
    return {decoder["type"]}.union(*own)
