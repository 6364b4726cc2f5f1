"""Validation: every held-out document of a source once, in an order that never changes."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helix.data.shards import DataError, Dataset, Index
from helix.data.stream import DataConfig, open_dataset
from helix.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ValidationSource:
    """The held-out text of one source.

    Attributes:
        n_bytes: UTF-8 bytes of the text: what bits per byte divides by.
        fingerprint: Hash of the text's ids. Scores compare only where it is the same.
        documents: Their numbers in the index.
    """

    name: str
    language: str
    n_bytes: int
    n_documents: int
    fingerprint: str
    dataset: Dataset
    tokenizer: Tokenizer
    documents: tuple[int, ...]

    def rows(self) -> Iterator[NDArray[np.uint32]]:
        """Yield the ids of each document, with bos and eos, in the order of `documents`."""
        for document in self.documents:
            yield self.dataset.read(self.name, document)

    def texts(self) -> Iterator[str]:
        """Yield the documents as text: `n_bytes` of UTF-8 in all."""
        for document in self.documents:
            yield self.tokenizer.decode(self.dataset.read(self.name, document).tolist())


def build_validation(config: DataConfig, tokenizer: Tokenizer) -> list[ValidationSource]:
    """Open the held-out split, one ValidationSource for each source of the dataset.

    Raises:
        DataError: The dataset is missing, damaged, made with another tokenizer, or holds
            nothing out.
    """
    dataset = open_dataset(config, tokenizer, "validation")
    if not dataset.sources:
        raise DataError(
            f"data.path={config.path}: nothing is held out for validation; make the dataset again "
            "with a validation_fraction above 0"
        )
    return [
        ValidationSource(
            name=name,
            language=source.language,
            n_bytes=int(dataset.indexes[name].n_bytes[documents].sum()),
            n_documents=len(documents),
            fingerprint=hash_documents(dataset.indexes[name], documents),
            dataset=dataset,
            tokenizer=tokenizer,
            documents=tuple(documents.tolist()),
        )
        for name, source in dataset.sources.items()
        for documents in [choose_documents(dataset.indexes[name], config.validation_bytes)]
    ]


def choose_documents(index: Index, n_bytes: int | None) -> np.ndarray:
    """Choose whole documents in the order of their hashes while they fit, at least one.

    Returns:
        Their numbers, rising. Which are chosen depends on their content alone.
    """
    if n_bytes is None:
        return np.arange(len(index))
    by_hash = np.argsort(index.checksum, kind="stable")
    n_fitting = int((np.cumsum(index.n_bytes[by_hash]) <= n_bytes).sum())
    return np.sort(by_hash[: max(n_fitting, 1)])


def hash_documents(index: Index, documents: np.ndarray) -> str:
    """Hash the content of some documents, in their order."""
    return hashlib.sha256(index.checksum[documents].astype("<u8").tobytes()).hexdigest()
