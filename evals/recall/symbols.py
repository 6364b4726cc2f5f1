"""Symbols: ids of a vocabulary that stand for keys, values and letters of synthetic sequences."""

from dataclasses import dataclass

from helix.tokenizer import Tokenizer

ENOUGH = 512  # ids of one kind; a kind of fewer gives way to a wider one
MOST = 8192  # Arora et al. 2023, arXiv:2312.04927, appendix E: their vocabulary


@dataclass(frozen=True)
class Symbols:
    """Ids of whole symbols; keys and values share none.

    Attributes:
        keys: Half of them.
        values: The other half.
    """

    keys: tuple[int, ...]
    values: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        """Keys and values."""
        return self.keys + self.values

    def key_tokens(self, n_keys: int) -> int:
        """Count the ids that a key needs, so that there are `n_keys` different ones."""
        n_tokens = 1
        while len(self.keys) ** n_tokens < n_keys:
            n_tokens += 1
        return n_tokens


def find_symbols(tokenizer: Tokenizer, n_symbols: int = MOST) -> Symbols:
    """Choose symbols of a vocabulary: words where it has them, else letters, else ASCII.

    Args:
        n_symbols: At most; those with the lowest ids are taken, which most vocabularies give to
            what is frequent.
    """
    reserved = {tokenizer.bos_id, tokenizer.eos_id, *tokenizer.symbol_ids.values()}
    texts = {
        token: text
        for token in range(tokenizer.n_vocab)
        if token not in reserved and (text := read_text(tokenizer.token_bytes(token)))
    }
    kinds = [
        [token for token, text in texts.items() if is_of_kind(text)]
        for is_of_kind in (is_word, is_letters, is_printable)
    ]
    enough = (kind for kind in kinds if len(kind) >= ENOUGH)
    chosen = next(enough, max(kinds, key=len))[:n_symbols]
    return Symbols(keys=tuple(chosen[0::2]), values=tuple(chosen[1::2]))


def read_text(data: bytes) -> str:
    """Read an id's bytes; empty where they are no text of their own."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return ""


def is_word(text: str) -> bool:
    """Tell a word of ASCII letters with the space before it."""
    return text[0] == " " and len(text) > 2 and text[1:].isalpha() and text.isascii()


def is_letters(text: str) -> bool:
    """Tell letters of any script."""
    return text.isalpha()


def is_printable(text: str) -> bool:
    """Tell one visible ASCII character."""
    return len(text) == 1 and text.isascii() and text.isprintable() and text != " "
