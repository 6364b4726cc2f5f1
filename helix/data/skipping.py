"""Skipping: which shards of the training split are not what was written, decided before a run.

Every shard is held to the manifest's SHA-256, each rank reading its share of them, and all ranks
agree on the union. What is skipped is part of what the order of documents depends on: the position
in it names the shards, and a run goes on only with the same ones skipped. A shard that goes bad
later stops the run. Behind a URL, a shard that is missing or wrong is bad; one that cannot be had
now is not, and stops the run.
"""

import sys
from collections.abc import Mapping

import torch.distributed as dist

from helix import distributed
from helix.data.manifest import FetchError
from helix.data.progress import show_progress
from helix.data.shards import DataError, Dataset, check_hash, check_length
from helix.data.store import Store

Skipped = Mapping[str, tuple[int, ...]]  # source to numbers of its shards


def find_bad_shards(store: Store) -> Skipped:
    """Read all of the training split; all ranks call it and get the same.

    Raises:
        FetchError: A shard cannot be had now, so nobody can tell whether it is bad.
    """
    shards = list(store.manifest.shards("train"))
    mine = shards[distributed.rank() :: distributed.world_size()]
    found: list[tuple[str, int, str]] = []
    for name, number, shard in show_progress(mine, "verify shards"):
        try:
            file = store.shard(shard)
            check_length(file, shard.n_file_bytes)
            check_hash(file, shard.sha256)
        except FetchError as error:
            found.append(("", 0, str(error)))  # no source: all ranks are to raise it
            break
        except (DataError, OSError) as error:
            found.append((name, number, str(error)))
    found = sorted(union_over_ranks(found))
    if found and not found[0][0]:
        raise FetchError(found[0][2])
    for _, _, problem in found if distributed.is_main() else []:
        print(f"helix: skipped, as data.on_bad_shard=skip says: {problem}", file=sys.stderr)
    return {
        source: tuple(number for name, number, _ in found if name == source)
        for source in dict.fromkeys(name for name, _, _ in found)
    }


def union_over_ranks(found: list[tuple[str, int, str]]) -> list[tuple[str, int, str]]:
    """Join what all ranks found."""
    if distributed.world_size() == 1:
        return found
    gathered: list[list[tuple[str, int, str]] | None] = [None] * distributed.world_size()
    dist.all_gather_object(gathered, found)
    return [entry for entries in gathered for entry in entries or []]


def count_skipped(dataset: Dataset, weights: Mapping[str, float]) -> None:
    """Tell what share of each source is skipped.

    Raises:
        DataError: Nothing is left of a source that has a weight.
    """
    for name, numbers in dataset.skipped.items():
        kept = dataset.kept(name)
        n_ids = dataset.indexes[name].n_ids
        n_left = int(n_ids[kept].sum())
        if not n_left and weights.get(name) != 0:
            raise DataError(
                f"data.path={dataset.name}: every shard of {name!r} is bad; copy them again, or "
                f"leave the source out with data.weights.{name}=0"
            )
        if distributed.is_main():
            n_documents = len(n_ids) - len(n_ids[kept])
            print(
                f"helix: {name!r}: {len(numbers)} of {len(dataset.sources[name].shards)} shards "
                f"skipped: {n_documents:,} documents, {int(n_ids.sum()) - n_left:,} tokens",
                file=sys.stderr,
            )
