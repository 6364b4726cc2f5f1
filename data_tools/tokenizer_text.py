"""Text of a tokenizer: what is held out to measure it on, and the sentences that it learns from."""

import heapq
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import count

from data_tools.documents import Document, clean_text, cut_block

SENTENCE_CHARACTERS = 4000  # SentencePiece skips, silently, what is over max_sentence_length bytes
HELD_OUT_BYTES = 4 * 2**20  # of a language: some 600,000 words


class HeldOut:
    """Documents kept from training, chosen by a hash of their names: the same ones each time.

    Those whose split is "validation" never train. Twins in other languages go the same way.

    Args:
        share: Of all documents.
        max_bytes: Kept of each language; the documents with the lowest hashes stay, the others
            train, so that no source is favoured for coming first.
    """

    def __init__(self, share: float, *, max_bytes: int = HELD_OUT_BYTES) -> None:
        self.share = share
        self.max_bytes = max_bytes
        self.languages: set[str] = set()
        self._kept: dict[str, list[tuple[float, int, Document]]] = defaultdict(list)
        self._n_bytes: dict[str, int] = defaultdict(int)
        self._ceiling: dict[str, float] = defaultdict(lambda: math.inf)

    @property
    def documents(self) -> list[Document]:
        """The documents kept so far, in the order in which they came."""
        kept = [(number, document) for heap in self._kept.values() for _, number, document in heap]
        return [document for _, document in sorted(kept, key=lambda entry: entry[0])]

    def part(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Yield the documents to train on, and keep the others."""
        for number, document in enumerate(documents):
            self.languages.add(document.language)
            place = hashed_place(document)
            if place >= self.share and document.split != "validation":
                yield document
                continue
            yield from self._keep(place, number, document)

    def _keep(self, place: float, number: int, document: Document) -> Iterator[Document]:
        """Keep a document; yield those that must make room and may train.

        Room that a long document left is not given to one with a higher hash: which documents
        are kept would depend on the order in which they came.
        """
        heap, language = self._kept[document.language], document.language
        heapq.heappush(heap, (-place, number, document))
        self._n_bytes[language] += len(document.text.encode())
        while len(heap) > 1 and (
            self._n_bytes[language] > self.max_bytes or -heap[0][0] >= self._ceiling[language]
        ):
            negative_place, _, crowded_out = heapq.heappop(heap)
            self._ceiling[language] = min(self._ceiling[language], -negative_place)
            self._n_bytes[language] -= len(crowded_out.text.encode())
            if crowded_out.split != "validation":
                yield crowded_out


def hashed_place(document: Document) -> float:
    """Place a document in [0, 1) by its name; the translations of a text share a place."""
    name = document.pair or f"{document.source}/{document.id}"
    return int.from_bytes(blake2b(name.encode(), digest_size=6).digest()) / 2**48


def training_lines(documents: Iterable[Document]) -> Iterator[str]:
    """Yield the lines of the documents, without those that hold only space."""
    for document in documents:
        for line in clean_text(document.text).split("\n"):
            if line.strip():
                yield from cut_block(line, SENTENCE_CHARACTERS)


def sample_lines(lines: Iterable[str], n_lines: int | None) -> list[str]:
    """Draw at most `n_lines` with equal chances, holding no more than that; None takes all.

    Source: Vitter 1985, "Random sampling with a reservoir", algorithm R.
    """
    if n_lines is None:
        return list(lines)
    draw = random.Random(0).random
    sample: list[str] = []
    for n_seen, line in zip(count(1), lines, strict=False):
        if len(sample) < n_lines:
            sample.append(line)
        elif (place := int(draw() * n_seen)) < n_lines:
            sample[place] = line
    return sample
