"""Names: what a document was called where it came from, by look-up.

The `.json` member that names the documents of a `.tokens` member lies right before it, so the
bytes between two `.tokens` members hold it: one pread, however large the shard is.
"""

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helix.data.shards import DataError, Dataset, json_members


@dataclass(frozen=True, kw_only=True)
class Fact:
    """What a document was called where it came from.

    Attributes:
        domain: Kind of text; empty where nobody said.
        pair: The same in all translations of one text; empty where there are none.
    """

    id: str
    domain: str = ""
    pair: str = ""


def document_id(dataset: Dataset, source: str, document: int) -> str:
    """Look up the id of one document; see `document_facts` for errors."""
    (fact,) = document_facts(dataset, source, [document])
    return fact.id


def document_facts(dataset: Dataset, source: str, documents: Iterable[int]) -> list[Fact]:
    """Look up what some documents were called, reading each member that names them once.

    Raises:
        DataError: A shard does not say, or says it of another document.
    """
    firsts = first_documents(dataset, source)
    found: list[Fact] = []
    held: tuple[int, list[dict]] = (-1, [])
    for document in documents:
        first = int(firsts[np.searchsorted(firsts, document, side="right") - 1])
        if first != held[0]:
            held = first, read_member(dataset, source, first)
        found.append(find_fact(dataset, source, document, held[1][document - first :]))
    return found


def find_fact(dataset: Dataset, source: str, document: int, facts: list[dict]) -> Fact:
    """Take the first of some facts as a document's, if it is."""
    index = dataset.indexes[source]
    try:
        told = int(facts[0]["n_tokens"]), int(facts[0]["n_bytes"])
        if told != (index.n_ids[document], index.n_bytes[document]):
            raise ValueError(f"{told[0]} tokens and {told[1]} bytes, the index says otherwise")
        domain, pair = (str(facts[0].get(name, "")) for name in ("domain", "pair"))
        return Fact(id=str(facts[0]["id"]), domain=domain, pair=pair)
    except (ValueError, LookupError, TypeError) as error:
        raise damaged(dataset, source, document, error) from None


def damaged(dataset: Dataset, source: str, document: int, error: Exception) -> DataError:
    """Say that a document's name cannot be read, and where."""
    index = dataset.indexes[source]
    file = dataset.store.shard(dataset.sources[source].shards[index.shard[document]])
    return DataError(
        f"{file}: document {document} of {source!r}: its name is damaged ({error}); "
        f"{dataset.store.repair}"
    )


def first_documents(dataset: Dataset, source: str) -> NDArray[np.intp]:
    """Give the first document of each .tokens member."""
    index = dataset.indexes[source]
    itemsize = np.dtype(dataset.manifest.id_dtype).itemsize
    end = index.offset + index.n_ids * np.uint64(itemsize)
    is_first = np.r_[True, (index.offset[1:] != end[:-1]) | (index.shard[1:] != index.shard[:-1])]
    return np.flatnonzero(is_first)


def read_member(dataset: Dataset, source: str, first: int) -> list[dict]:
    """Read the .json member that names a document which begins a .tokens member."""
    index = dataset.indexes[source]
    itemsize = np.dtype(dataset.manifest.id_dtype).itemsize
    start = 0
    if first > 0 and index.shard[first - 1] == index.shard[first]:
        end = int(index.offset[first - 1]) + int(index.n_ids[first - 1]) * itemsize
        start = -(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    file = dataset.store.shard(dataset.sources[source].shards[index.shard[first]])
    try:
        return read_facts(dataset.files.pread(file, int(index.offset[first]) - start, start))
    except (tarfile.TarError, ValueError) as error:
        raise damaged(dataset, source, first, error) from None


def read_facts(members: bytes) -> list[dict]:
    """Read the first .json member of some bytes of a tar."""
    with tarfile.open(fileobj=io.BytesIO(members), mode="r:") as tar:
        facts = next(json_members(tar), None)
    if facts is None:
        raise ValueError("there is no .json member")
    return facts
