"""Rows: the tokens of packed documents, read from the shards into a batch."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import torch

from helix.batch import IGNORED, Batch
from helix.data.packing import Segment
from helix.data.shards import Dataset

Document = tuple[str, int]  # its source and its number there


class RowReader:
    """Reads the tokens of rows, keeping the last document for the row that continues it.

    Args:
        n_workers: Threads that read and check the documents of a batch; 0 reads one by one.
    """

    def __init__(self, dataset: Dataset, *, n_workers: int = 0) -> None:
        self.dataset = dataset
        self.n_workers = n_workers
        self.pool = ThreadPoolExecutor(n_workers, "helix-read") if n_workers else None
        self.last: dict[Document, np.ndarray] = {}

    def read_rows(self, rows: Sequence[list[Segment]], *, n_context: int) -> Batch:
        """Make a batch of rows."""
        ids_of = self.read_documents(rows)
        tokens = np.zeros((len(rows), n_context), np.int64)
        targets = np.full((len(rows), n_context), IGNORED, np.int64)
        document_ids = np.zeros((len(rows), n_context), np.int64)
        for row, segments in enumerate(rows):
            start = 0
            for number, segment in enumerate(segments):
                ids = ids_of[segment.source, segment.document]
                first, last = segment.first_pair, segment.first_pair + segment.n_pairs
                here = slice(start, start + segment.n_pairs)
                tokens[row, here] = ids[first:last]
                targets[row, here] = ids[first + 1 : last + 1]
                document_ids[row, here] = number
                start += segment.n_pairs
            document_ids[row, start:] = len(segments)
        return Batch(
            tokens=torch.from_numpy(tokens),
            targets=torch.from_numpy(targets),
            document_ids=torch.from_numpy(document_ids),
        )

    def read_documents(self, rows: Sequence[list[Segment]]) -> dict[Document, np.ndarray]:
        """Read each document of some rows once."""
        wanted = [(segment.source, segment.document) for row in rows for segment in row]
        unread = [document for document in dict.fromkeys(wanted) if document not in self.last]
        if self.n_workers == 0:
            ids = [self.dataset.read(*document) for document in unread]
        else:
            ids = self.read_together(unread)
        ids_of = self.last | dict(zip(unread, ids, strict=True))
        self.last = {document: ids_of[document] for document in wanted[-1:]}
        return ids_of

    def read_together(self, documents: Sequence[Document]) -> list[np.ndarray]:
        """Read documents with all workers: each takes the next one when it is done with one.

        Raises:
            DataError: As reading one by one would raise it: of the first that cannot be read.
        """
        numbered = list(enumerate(documents))
        remaining = iter(numbered)
        ids: dict[int, np.ndarray] = {}
        errors: dict[int, Exception] = {}

        def work() -> None:
            for number, document in remaining:  # a list's iterator gives each item to one thread
                if errors:
                    return
                try:
                    ids[number] = self.dataset.read(*document)
                except Exception as error:
                    errors[number] = error

        assert self.pool is not None
        wait([self.pool.submit(work) for _ in range(min(self.n_workers, len(numbered)))])
        if errors:
            raise errors[min(errors)]
        return [ids[number] for number, _ in numbered]

    def close(self) -> None:
        """End the threads, once they have read what is under way."""
        if self.pool is not None:
            self.pool.shutdown()  # cancelled futures would be waited for without end
