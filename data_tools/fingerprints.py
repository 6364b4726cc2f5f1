"""Fingerprints: what a deduplication keeps of a text. Imports nothing heavy (processes.py)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.minhash import Bands, band_keys
from data_tools.shingles import Hashes, hash_shingles, hash_words, split_words

NO_SHINGLES = np.empty(0, np.uint64)


@dataclass(frozen=True)
class Fingerprint:
    """Length and hashes of a text.

    Attributes:
        key: Equal for exact duplicates.
        text_hash: Of the text itself.
        shingles: Sorted; empty where the text has none or they are not wanted.
    """

    n_bytes: int
    key: bytes
    text_hash: bytes
    shingles: Hashes


@dataclass(frozen=True)
class Fingerprints:
    """Those of a batch of texts.

    Attributes:
        keys: Buckets of the texts that have shingles, one row each.
    """

    texts: tuple[Fingerprint, ...]
    keys: NDArray[np.int64]


def fingerprint_texts(
    texts: Sequence[str], *, bands: Bands | None, ngram_words: int, exact: str
) -> Fingerprints:
    """Hash texts, with their shingles and buckets if there are bands.

    Args:
        exact: "text" or "words": of what `key` is the hash.
    """
    prints = []
    for text in texts:
        words = split_words(text) if bands or exact == "words" else []
        text_hash = hash_text(text)
        prints.append(
            Fingerprint(
                n_bytes=len(text.encode()),
                key=hash_all_words(words) if words and exact == "words" else text_hash,
                text_hash=text_hash,
                shingles=hash_shingles(hash_words(words), ngram_words) if bands else NO_SHINGLES,
            )
        )
    full = [own.shingles for own in prints if len(own.shingles)]
    keys = band_keys(full, bands) if bands and full else np.empty((0, 0), np.int64)
    return Fingerprints(tuple(prints), keys)


def hash_text(text: str) -> bytes:
    """Hash a text to 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def hash_all_words(words: Sequence[str]) -> bytes:
    """Hash words to 16 bytes that no text's hash equals."""
    return hashlib.blake2b(" ".join(words).encode(), digest_size=16, person=b"words").digest()
