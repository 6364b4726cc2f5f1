"""The index: where each document of a source lies in its shards.

Dims: N documents of a source.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt32, UInt64

from helix.data.manifest import REPAIR, DataError, Source

INDEX_DTYPES = {
    "shard": "<u4",
    "offset": "<u8",
    "n_ids": "<u8",
    "n_bytes": "<u8",
    "checksum": "<u8",
}


@dataclass(frozen=True, kw_only=True)
class Index:
    """Where each document of a source lies; all arrays run over documents.

    Attributes:
        shard: Number of the document's shard.
        offset: Byte of the tar at which its ids start.
        n_ids: Its ids, with bos and eos.
        n_bytes: UTF-8 bytes of its text.
        checksum: `checksum` of its id bytes.
    """

    shard: UInt32[np.ndarray, " N"]
    offset: UInt64[np.ndarray, " N"]
    n_ids: UInt64[np.ndarray, " N"]
    n_bytes: UInt64[np.ndarray, " N"]
    checksum: UInt64[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.shard)

    def arrays(self) -> dict[str, np.ndarray]:
        """Name the arrays, in their dtypes on disk."""
        return {name: getattr(self, name).astype(dtype) for name, dtype in INDEX_DTYPES.items()}

    def hash(self) -> str:
        """Hash the content, whatever the file around it looks like."""
        digest = hashlib.sha256()
        for name, array in self.arrays().items():
            digest.update(f"{name} {len(array)}\n".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    @classmethod
    def read(cls, file: Path, *, expected_hash: str) -> "Index":
        """Read an index and check its content."""
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                columns = {name: arrays[name] for name in INDEX_DTYPES}
            if len({column.shape for column in columns.values()}) > 1:
                raise ValueError("its columns differ in length")
            index = cls(**columns)
            found = index.hash()
        except Exception as error:  # zip, zlib, numpy and key errors: damage has many names
            raise DataError(f"{file}: damaged ({error}); {REPAIR}") from None
        if found != expected_hash:
            raise DataError(
                f"{file}: bytes changed (content hash {found[:16]}, the manifest says "
                f"{expected_hash[:16]}); {REPAIR}"
            )
        return index


def check_index(path: Path, source: Source, index: Index, id_bytes: int) -> None:
    """Refuse an index whose documents overlap, repeat, lie outside their shards or do not add up.

    Args:
        id_bytes: Bytes of one id.
    """
    file = path / source.index
    counted = len(index), int(index.n_ids.sum()), int(index.n_bytes.sum())
    told = source.n_documents, source.n_tokens, source.n_bytes
    if counted != told:
        raise DataError(
            f"{file}: {counted} documents, tokens and bytes, the manifest says {told}; {REPAIR}"
        )
    lengths = np.array([shard.n_file_bytes for shard in source.shards], "<u8")
    end = index.offset + index.n_ids * np.uint64(id_bytes)
    is_wrong = (index.n_ids < 2) | (index.shard >= len(lengths))
    is_wrong |= end > lengths[np.minimum(index.shard, len(lengths) - 1)]
    follows = (index.shard[1:] > index.shard[:-1]) | (
        (index.shard[1:] == index.shard[:-1]) & (index.offset[1:] >= end[:-1])
    )
    is_wrong[1:] |= ~follows
    if is_wrong.any():
        document = int(np.flatnonzero(is_wrong)[0])
        raise DataError(
            f"{file}: document {document} does not lie after document {document - 1} and within "
            f"its shard (shard {index.shard[document]}, byte {index.offset[document]}); {REPAIR}"
        )


def checksum(data: bytes) -> int:
    """Hash the id bytes of a document to 64 bits."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
