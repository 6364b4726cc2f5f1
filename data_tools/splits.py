"""Which documents are written, and to which split: decided in one pass, for a second to act on.

A text that occurs twice is written once. What its maker decided stands (`Document.split`), and
binds its copies, the other translations of the same text (`Document.pair`) and the copies of
those. Where it is decided both ways by that, it is held out: twins slip into every large corpus,
and one that is trained on spoils the other. Of the rest a share is held out by a hash: of the pair
where there is one, so that no translation of a held-out text is trained on, else of the text. So
the split of a text depends on neither its place nor the other texts.
"""

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from data_tools.documents import Document
from data_tools.fingerprints import hash_text
from helix.data import DataError
from helix.data.shards import Split

SPLITS: tuple[Split, ...] = get_args(Split)
UNDECIDED = 0  # 1 is SPLITS[0], 2 is SPLITS[1]
TRAIN, VALIDATION = 1, 2
DECIDED = {"": UNDECIDED, "train": TRAIN, "validation": VALIDATION}


class Survey:
    """What sharing out the documents takes: 46 bytes of each, so that they need not fit in memory.

    Attributes:
        sources: Names of the sources, in the order in which they came.
        languages: Source name to the languages of its documents.
    """

    def __init__(self, documents: Iterable[Document], *, seed: int) -> None:
        self.sources: dict[str, int] = {}
        self.languages: dict[str, set[str]] = defaultdict(set)
        text_hashes, name_hashes = bytearray(), bytearray()
        keys, numbers, decided, is_paired = array("Q"), array("I"), array("B"), array("B")
        for document in documents:
            text_hashes += hash_text(document.text)
            name_hashes += hash_text(f"{document.source}\0{document.id}")
            keys.append(hash_key(document.pair or document.text, seed=seed))
            numbers.append(self.sources.setdefault(document.source, len(self.sources)))
            decided.append(read_split(document))
            is_paired.append(bool(document.pair))
            self.languages[document.source].add(document.language)
        self.text_hashes = np.frombuffer(text_hashes, "S16")
        self.name_hashes = np.frombuffer(name_hashes, "S16")
        self.keys = np.frombuffer(keys, np.uint64)
        self.numbers = np.frombuffer(numbers, np.uint32)
        self.decided = np.frombuffer(decided, np.uint8)
        self.is_paired = np.frombuffer(is_paired, np.uint8).astype(bool)
        self.is_written = first_of_each(self.text_hashes) & (self.text_hashes != hash_text(""))

    def __len__(self) -> int:
        return len(self.keys)

    def is_text_at(self, place: int, text: str) -> bool:
        """Tell whether the document at a place had this text."""
        found: bytes = self.text_hashes[place]  # numpy strips the zero bytes at a hash's end
        return found == hash_text(text).rstrip(b"\0")

    def repeated_id(self) -> tuple[int, int] | None:
        """Give the places of two written documents of one source and id, if there are any."""
        places = np.flatnonzero(self.is_written)
        _, inverse, counts = np.unique(
            self.name_hashes[places], return_inverse=True, return_counts=True
        )
        repeated = np.flatnonzero(counts[inverse] > 1)
        if not len(repeated):
            return None
        twins = np.flatnonzero(inverse == inverse[repeated[0]])
        return int(places[twins[0]]), int(places[twins[1]])

    def assign(self, *, fraction: float) -> NDArray[np.uint8]:
        """Give each document's split, TRAIN or VALIDATION; UNDECIDED where it is not written.

        Args:
            fraction: Share of the undecided documents to hold out; unless it is 0, at least one of
                each source, and never all.

        Raises:
            DataError: There is no text, a pair is on both sides, or a source cannot be split.
        """
        if not self.is_written.any():
            raise DataError("no text given: there is no document to make shards of")
        splits = np.where(self.is_written, self.settle(), UNDECIDED).astype(np.uint8)
        is_open = self.is_written & (splits == UNDECIDED)
        paired = is_open & self.is_paired
        splits[paired] = self.split_pairs(paired, splits, fraction)
        for name, number in self.sources.items():
            own = (self.numbers == number) & self.is_written
            alone = own & is_open & ~self.is_paired
            others = splits[own & ~alone]
            limit = choose_limit(name, self.keys[alone], set(others.tolist()), fraction)
            splits[alone] = np.where(self.keys[alone] < limit, VALIDATION, TRAIN)
        return splits

    def settle(self) -> NDArray[np.uint8]:
        """Give what was decided of each document, of a copy, of its pair or of a copy of that."""
        if not self.decided.any():
            return self.decided
        self.refuse_torn_pairs()
        _, texts = np.unique(self.text_hashes, return_inverse=True)
        decided = most_of_each(self.decided, texts)
        places = np.flatnonzero(self.is_paired)
        _, pairs = np.unique(self.keys[places], return_inverse=True)
        decided[places] = most_of_each(decided[places], pairs)
        return most_of_each(decided, texts)

    def refuse_torn_pairs(self) -> None:
        """Refuse translations of one text that their maker put on both sides."""
        known = np.flatnonzero(self.is_paired & (self.decided != UNDECIDED))
        is_train = self.decided[known] == TRAIN
        torn = np.intersect1d(self.keys[known[is_train]], self.keys[known[~is_train]])
        if len(torn):
            first = int(np.flatnonzero(self.is_paired & (self.keys == torn[0]))[0])
            raise DataError(
                f"document {first + 1}: one of its pair is of the split train, another of "
                "validation; give all translations of a text one split"
            )

    def split_pairs(
        self, paired: NDArray[np.bool_], splits: NDArray[np.uint8], fraction: float
    ) -> NDArray[np.uint8]:
        """Split the undecided pairs, by one limit for all sources."""
        limit, most = int(fraction * 2**64), 2**64 - 1
        for name, number in self.sources.items():
            own = (self.numbers == number) & self.is_written
            keys = self.keys[own & paired]
            if not len(keys) or fraction == 0 or (own & ~paired).any():
                continue  # another document can be held out, or be trained on
            limit = max(limit, choose_limit(name, keys, set(), fraction))
            most = min(most, int(keys.max()))
        return np.where(self.keys[paired] < min(limit, most), VALIDATION, TRAIN).astype(np.uint8)


def most_of_each(decided: NDArray[np.uint8], groups: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Give each document the highest decision of its group: VALIDATION before TRAIN."""
    most = np.zeros(groups.max(initial=-1) + 1, np.uint8)
    np.maximum.at(most, groups, decided)
    return most[groups]


def first_of_each(hashes: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """Mark the first place at which each hash stands."""
    is_first = np.zeros(len(hashes), bool)
    is_first[np.unique(hashes, return_index=True)[1]] = True
    return is_first


def hash_key(text: str, *, seed: int) -> int:
    """Hash a text to 64 bits: what decides whether it is held out."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, salt=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")


def read_split(document: Document) -> int:
    """Read what was decided of a document."""
    if document.split not in DECIDED:
        raise DataError(
            f"document {document.id} of {document.source}: split={document.split!r}; give train, "
            "validation, or leave it out"
        )
    return DECIDED[document.split]


def choose_limit(
    source: str, keys: NDArray[np.uint64], elsewhere: set[int], fraction: float
) -> int:
    """Choose the hash below which a document is held out, so that neither split is empty.

    Args:
        elsewhere: Splits that other documents of the source are of.
    """
    limit = int(fraction * 2**64)
    if fraction == 0 or not len(keys):
        return limit
    if len(keys) + len(elsewhere) < len(SPLITS):
        raise DataError(
            f"source {source!r} has only one document, and one must be held out; give more text "
            "(about 8 kB), or validation_fraction=0"
        )
    if VALIDATION not in elsewhere:
        limit = max(limit, int(keys.min()) + 1)
    if TRAIN not in elsewhere:
        limit = min(limit, int(keys.max()))
    return limit


def split_documents(
    documents: Sequence[Document], *, fraction: float, seed: int
) -> dict[tuple[Split, str], list[Document]]:
    """Share out documents that fit in memory to (split, source), each text once."""
    splits = Survey(documents, seed=seed).assign(fraction=fraction)
    parts: dict[tuple[Split, str], list[Document]] = defaultdict(list)
    for document, split in zip(documents, splits.tolist(), strict=True):
        if split != UNDECIDED:
            parts[SPLITS[split - 1], document.source].append(document)
    return dict(parts)
