"""Names: what a document was called where it came from, by look-up.

The `.json` member that names the documents of a `.tokens` member lies right before it, so the
bytes between two `.tokens` members hold it: one pread, however large the shard is.
"""

import io
import tarfile

import numpy as np

from helix.data.shards import DataError, Dataset, json_members


def document_id(dataset: Dataset, source: str, document: int) -> str:
    """Look up the id of one document.

    Raises:
        DataError: The shard does not say, or says it of another document.
    """
    index = dataset.indexes[source]
    first, start = find_member(dataset, source, document)
    end = int(index.offset[first])
    file = dataset.store.shard(dataset.sources[source].shards[index.shard[document]])
    try:
        facts = read_facts(dataset.files.pread(file, end - start, start))
        fact = facts[document - first]
        told = int(fact["n_tokens"]), int(fact["n_bytes"])
        if told != (index.n_ids[document], index.n_bytes[document]):
            raise ValueError(f"{told[0]} tokens and {told[1]} bytes, the index says otherwise")
        return str(fact["id"])
    except (tarfile.TarError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{file}: document {document} of {source!r}: its name, at byte {start}, is damaged "
            f"({error}); {dataset.store.repair}"
        ) from None


def find_member(dataset: Dataset, source: str, document: int) -> tuple[int, int]:
    """Find the first document of a document's member, and the byte after the member before."""
    index = dataset.indexes[source]
    itemsize = np.dtype(dataset.manifest.id_dtype).itemsize
    end = index.offset + index.n_ids * np.uint64(itemsize)
    is_first = np.r_[True, (index.offset[1:] != end[:-1]) | (index.shard[1:] != index.shard[:-1])]
    first = int(np.flatnonzero(is_first[: document + 1])[-1])
    if first == 0 or index.shard[first - 1] != index.shard[first]:
        return first, 0
    return first, -(-int(end[first - 1]) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def read_facts(members: bytes) -> list[dict]:
    """Read the first .json member of some bytes of a tar."""
    with tarfile.open(fileobj=io.BytesIO(members), mode="r:") as tar:
        facts = next(json_members(tar), None)
    if facts is None:
        raise ValueError("there is no .json member")
    return facts
