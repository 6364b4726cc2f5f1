"""The stream: documents in their order, mixed, packed and shared out to the ranks.

There is one global sequence of rows per (dataset, seed, weights, n_context). Batch k is the next
`batch_rows` rows of it and a rank reads its share of them, so neither the world size nor a stop
can change what the model sees. The position in it is a few integers: per source the epoch, the
place in the epoch's order and the pairs drawn; and the document that the last row cut.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

import numpy as np

from helix.batch import Batch
from helix.data.packing import Segment, cut_segment, pack_row, whole_document
from helix.data.rows import RowReader
from helix.data.seek import Course, find_places
from helix.data.shards import DataError, Dataset, Split, check_weights, document_order
from helix.data.skipping import count_skipped, find_bad_shards
from helix.data.store import open_store
from helix.tokenizer import Tokenizer

OnBadShard = Literal["refuse", "skip"]
SKIPPED = "skipped shards"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on.

    Attributes:
        path: Folder of the dataset, or a URL that fsspec knows: s3://bucket/dataset.
        cache: Local folder for what is fetched from a URL, under the dataset's fingerprint; empty
            means $XDG_CACHE_HOME/helix/datasets, or ~/.cache/helix/datasets.
        cache_gib: What the dataset may take there at the most; None means what the disk has.
        n_workers: Threads that read a batch's documents; worth it where a read waits for a network.
        n_context: Tokens in a row.
        weights: Source name to its share of the tokens, in any unit; empty means equal shares.
        validation_bytes: Text to validate on per source, in UTF-8 bytes; None means all held out.
        on_bad_shard: refuse stops; skip reads all of the training split before the run, leaves out
            the shards that are not as they were written, and says which.
    """

    path: str = ""
    cache: str = ""
    cache_gib: float | None = None
    n_workers: int = 0
    n_context: int = 256
    weights: dict[str, float] = field(default_factory=dict)
    validation_bytes: int | None = None
    on_bad_shard: OnBadShard = "refuse"

    def __post_init__(self) -> None:
        for name, least in (("n_workers", 0), ("n_context", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name}={getattr(self, name)}: give at least {least}")
        if self.cache_gib is not None and not self.cache_gib > 0:
            raise ValueError(f"data.cache_gib={self.cache_gib}: give more than 0, or leave it out")
        check_shares(self.weights)
        if self.on_bad_shard not in get_args(OnBadShard):
            raise ValueError(f"data.on_bad_shard={self.on_bad_shard!r}: give refuse or skip")
        if self.validation_bytes is not None and self.validation_bytes < 1:
            raise ValueError(
                f"data.validation_bytes={self.validation_bytes}: give at least 1, or leave it out"
            )


def check_shares(weights: Mapping[str, float]) -> None:
    """Refuse weights that are no shares."""
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"data.weights.{name}={weight}: give a number of at least 0")
    if weights and not any(weights.values()):
        raise ValueError("data.weights: all are 0; give one source more than that")


@dataclass
class Cursor:
    """Where the stream is in one source.

    Attributes:
        epoch: Times that all its documents were drawn.
        position: Documents drawn in this epoch.
        n_pairs: Pairs drawn since the start, over all epochs.
    """

    epoch: int = 0
    position: int = 0
    n_pairs: int = 0


class Mixture:
    """An endless iterator over whole documents: the next comes from the source furthest behind.

    "Behind" is pairs drawn over weight; the first by name where they are equal.
    """

    def __init__(self, dataset: Dataset, weights: dict[str, float], seed: int) -> None:
        self.weights = weights
        self.seed = seed
        self.n_ids = {name: dataset.indexes[name].n_ids for name in weights}
        self.kept = {name: dataset.kept(name) for name in weights}
        self.n_documents = {name: len(self.n_ids[name][self.kept[name]]) for name in weights}
        self.cursors = {name: Cursor() for name in weights}
        self.orders: dict[str, tuple[int, np.ndarray]] = {}

    def __iter__(self) -> Iterator[Segment]:
        return self

    def __next__(self) -> Segment:
        source = min(self.weights, key=self.progress)
        cursor = self.cursors[source]
        document = int(self.order(source, cursor.epoch)[cursor.position])
        segment = whole_document(source, document, int(self.n_ids[source][document]))
        cursor.n_pairs += segment.n_pairs
        cursor.position += 1
        if cursor.position == self.n_documents[source]:
            cursor.epoch, cursor.position = cursor.epoch + 1, 0
        return segment

    def go_to(self, n_pairs: int) -> Segment | None:
        """Go to where at least `n_pairs` are drawn, by look-up; give what the last drew too much.

        The mixture is then as it would be after drawing them one by one.
        """
        courses = {
            name: Course(n_ids, self.kept[name], weight=weight, order=partial(self.order, name))
            for (name, weight), n_ids in zip(self.weights.items(), self.n_ids.values(), strict=True)
        }
        places = find_places(courses, n_pairs)
        self.cursors = {name: Cursor(*place) for name, place in places.items()}
        n_drawn = sum(cursor.n_pairs for cursor in self.cursors.values())
        segment = None
        while n_drawn < n_pairs:
            segment = next(self)
            n_drawn += segment.n_pairs
        if segment is None or n_drawn == n_pairs:
            return None
        return cut_segment(segment, segment.n_pairs - (n_drawn - n_pairs))[1]

    def progress(self, source: str) -> float:
        """Tell how far a source is, in pairs per weight."""
        return self.cursors[source].n_pairs / self.weights[source]

    def order(self, source: str, epoch: int) -> np.ndarray:
        """Give the order of an epoch, kept while the epoch lasts."""
        if self.orders.get(source, (-1,))[0] != epoch:
            n_documents, kept = len(self.n_ids[source]), self.kept[source]
            order = document_order(n_documents, seed=self.seed, source=source, epoch=epoch)
            if isinstance(kept, np.ndarray):
                order = order[np.isin(order, kept, assume_unique=True)]
            self.orders[source] = (epoch, order)
        return self.orders[source][1]


class Loader:
    """One rank's batches. `build_loader` makes it.

    Attributes:
        n_rows_drawn: Rows of the global sequence before the next batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        n_context: int,
        weights: dict[str, float],
        batch_rows: int,
        rank: int,
        world_size: int,
        seed: int,
        n_workers: int = 0,
    ) -> None:
        self.dataset = dataset
        self.n_context = n_context
        self.batch_rows = batch_rows
        self.share = share_of(batch_rows, rank, world_size)
        self.reader = RowReader(dataset, n_workers=n_workers)
        self.mixture = Mixture(dataset, weights, seed)
        self.carry: Segment | None = None
        self.n_rows_drawn = 0

    def next(self) -> Batch:
        """Give this rank's rows of the next global batch."""
        rows = self.next_rows()
        return self.reader.read_rows(rows[self.share], n_context=self.n_context)

    def next_rows(self) -> list[list[Segment]]:
        """Draw the rows of the next global batch, without reading a token."""
        rows = []
        for _ in range(self.batch_rows):
            row, self.carry = pack_row(self.mixture, self.carry, n_context=self.n_context)
            rows.append(row)
        self.n_rows_drawn += self.batch_rows
        return rows

    def provenance(self, step: int) -> list[list[Segment]]:
        """Tell what each row of global batch `step` was made of, all ranks, counted from 0.

        It looks lengths up and reads no token; the loader stays where it is. It holds for a run
        whose batch_rows never changed, and a run's config does not let it change.
        """
        walker = Loader(
            self.dataset,
            n_context=self.n_context,
            weights=self.mixture.weights,
            batch_rows=self.batch_rows,
            rank=0,
            world_size=1,
            seed=self.mixture.seed,
        )
        walker.go_to_row(step * self.batch_rows)
        return walker.next_rows()

    def go_to_row(self, n_rows: int) -> None:
        """Go to any row of the global sequence, by look-up."""
        self.carry = self.mixture.go_to(n_rows * self.n_context)
        self.n_rows_drawn = n_rows

    def epochs(self) -> dict[str, float]:
        """Tell how many times each source has been read, to date."""
        return {
            name: cursor.epoch + cursor.position / self.mixture.n_documents[name]
            for name, cursor in self.mixture.cursors.items()
        }

    def identity(self) -> dict[str, object]:
        """Name what the global sequence of rows depends on."""
        skipped = {
            name: list(numbers)
            for name, numbers in self.dataset.skipped.items()
            if name in self.mixture.weights
        }
        return {
            "data.path": self.dataset.fingerprint,
            "data.n_context": self.n_context,
            "data.weights": self.mixture.weights,
            "seed": self.mixture.seed,
            **({SKIPPED: skipped} if skipped else {}),
        }

    def adopt_skipped(self, theirs: Mapping[str, Sequence[int]]) -> None:
        """Go on skipping what a position skipped, though it be mended; else the order would change.

        A shard that has gone bad since is not among them, and `load_state_dict` refuses.
        """
        ours = {name: set(numbers) for name, numbers in self.dataset.skipped.items()}
        is_more = all(numbers <= set(theirs.get(name, ())) for name, numbers in ours.items())
        if is_more and ours != {name: set(numbers) for name, numbers in theirs.items()}:
            print(f"helix: still skipped, as when the run began: {dict(theirs)}", file=sys.stderr)
            self.dataset.skipped = {name: tuple(numbers) for name, numbers in theirs.items()}
            self.mixture = Mixture(self.dataset, self.mixture.weights, self.mixture.seed)

    def state_dict(self) -> dict:
        """Give the position, fit for JSON; it knows nothing of ranks or of batch_rows."""
        carry = self.carry
        return {
            "identity": self.identity(),
            "n_rows_drawn": self.n_rows_drawn,
            "cursors": {
                name: [cursor.epoch, cursor.position, cursor.n_pairs]
                for name, cursor in self.mixture.cursors.items()
            },
            "carry": carry and [carry.source, carry.document, carry.first_pair, carry.n_pairs],
        }

    def load_state_dict(self, state: dict) -> None:
        """Go to a position, of whatever world size.

        Raises:
            DataError: It is a position in other data.
        """
        theirs = state["identity"]
        self.adopt_skipped(theirs.get(SKIPPED, {}))
        ours = self.identity()
        for name in [*ours, *(name for name in theirs if name not in ours)]:
            saved, mine = theirs.get(name), ours.get(name)
            if saved != mine:
                raise DataError(
                    f"{name}: the checkpoint's position is in other data ({shorten(saved)}, this "
                    f"run has {shorten(mine)}); resume with what it was trained on, or start the "
                    "data afresh"
                )
        self.n_rows_drawn = state["n_rows_drawn"]
        self.mixture.cursors = {
            name: Cursor(*state["cursors"][name]) for name in self.mixture.weights
        }
        self.carry = Segment(*state["carry"]) if state["carry"] else None

    def close(self) -> None:
        """End the threads that read and fetch, and close the shards."""
        self.dataset.close()
        self.reader.close()


def build_loader(
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    batch_rows: int,
    rank: int,
    world_size: int,
    seed: int,
) -> Loader:
    """Open the training split and stand at its first row.

    Args:
        batch_rows: Rows of a global batch, over all ranks; a multiple of `world_size`.

    Raises:
        DataError: The dataset is missing, damaged, made with another tokenizer, or has not the
            sources that the weights name.
    """
    dataset = open_dataset(config, tokenizer, "train")
    weights = check_weights(config.weights, dataset.sources)
    loader = Loader(
        dataset,
        n_context=config.n_context,
        weights=weights,
        batch_rows=batch_rows,
        rank=rank,
        world_size=world_size,
        seed=seed,
        n_workers=config.n_workers,
    )
    dataset.store.check_room(dataset.shards_of(weights), config.cache_gib)
    dataset.fetch_ahead(weights)
    return loader


def open_dataset(config: DataConfig, tokenizer: Tokenizer, split: Split) -> Dataset:
    """Open the dataset of a run and check that it is of the run's tokenizer."""
    if not config.path:
        raise DataError("data.path: not given; name the folder that helix data shard wrote")
    dataset = open_split(config, split)
    dataset.check_tokenizer(tokenizer)
    return dataset


def open_split(config: DataConfig, split: Split) -> Dataset:
    """Open a split of a run's dataset, without the training shards that the run is to skip."""
    store = open_store(config.path, config.cache)
    if config.on_bad_shard == "refuse":
        return Dataset.of(store, split=split)
    if split == "validation":  # scores compare only over the same text: nothing is skipped
        return Dataset.of(store, split=split, skipped={})
    store.check_room([shard for *_, shard in store.manifest.shards("train")], config.cache_gib)
    dataset = Dataset.of(store, skipped=find_bad_shards(store))
    count_skipped(dataset, config.weights)
    return dataset


def share_of(batch_rows: int, rank: int, world_size: int) -> slice:
    """Give a rank's rows of a global batch."""
    if batch_rows < 1 or batch_rows % world_size:
        raise DataError(
            f"training.batch_rows={batch_rows}: give a multiple of the {world_size} ranks"
        )
    n_rows = batch_rows // world_size
    return slice(rank * n_rows, (rank + 1) * n_rows)


def shorten(value: object) -> str:
    """Cut a fingerprint to what a person compares."""
    return value[:16] if isinstance(value, str) else str(value)
