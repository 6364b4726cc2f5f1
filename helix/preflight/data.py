"""Data: are they whole, of this tokenizer, within reach, and how often will they be read?"""

import os
from typing import Any

from helix.data import DataError, Dataset
from helix.data.files import check_hash
from helix.data.manifest import SPLITS
from helix.data.order import check_weights
from helix.data.shards import check_shard
from helix.data.store import LocalStore, Store, open_store
from helix.preflight.context import Context
from helix.preflight.findings import Facts, Seen
from helix.tokenizer import load_tokenizer

N_PROBES = 16  # shards behind a URL that are asked for by each node
MANY_EPOCHS = 4.0  # up to so many, repeated data are nearly as good as new: arXiv:2305.16264


def look_at_dataset(context: Context) -> Seen | None:
    """Check manifest, indexes, the length of every file and the tokenizer, on each node."""
    if context.number_on_node:
        return None
    run = context.of_run
    if not run.data.path:
        raise DataError("data.path: not given; name the folder that helix data shard wrote")
    tokenizer = load_tokenizer(run.tokenizer)
    store = open_store(run.data.path, run.data.cache)
    may_skip = run.data.on_bad_shard == "skip"
    bad = cut_shards(store) if may_skip else {}
    try:
        for split in SPLITS:
            passed_over = bad if split == "train" else {}
            dataset = Dataset.of(store, split=split, skipped=passed_over if may_skip else None)
            dataset.check_tokenizer(tokenizer)
            if not dataset.sources:
                raise DataError(
                    f"data.path={run.data.path}: the {split} split is empty; make the dataset again"
                )
            if split == "train":
                weights = check_weights(run.data.weights, dataset.sources)
                store.check_room(dataset.shards_of(weights), run.data.cache_gib)
    finally:
        store.close()
    if bad:
        told = ", ".join(f"{name} {list(numbers)}" for name, numbers in bad.items())
        return Seen(f"shards cut short or missing: {told}", "warning", "they will be left out")
    shards = [shard for split in SPLITS for *_, shard in store.manifest.shards(split)]
    n_bytes = sum(shard.n_file_bytes for shard in shards)
    return Seen(f"{len(shards)} shards of {n_bytes / 2**30:.2f} GiB, lengths and indexes right")


def cut_shards(store: Store) -> dict[str, tuple[int, ...]]:
    """Number the training shards of a folder that have not their length; bytes are not read."""
    bad: dict[str, tuple[int, ...]] = {}
    if isinstance(store, LocalStore):
        for name, number, _ in store.manifest.shards("train"):
            try:
                check_shard(store, name, store.manifest.splits["train"][name], number)
            except DataError:
                bad[name] = (*bad.get(name, ()), number)
    return bad


def look_behind_url(context: Context) -> Seen | None:
    """Ask for the length of some shards behind a URL, on each node."""
    run = context.of_run
    if context.number_on_node or "://" not in run.data.path:
        return None
    from helix.data.cache import CachedStore  # it imports fsspec, which a folder does not need

    store = open_store(run.data.path, run.data.cache)
    assert isinstance(store, CachedStore)
    shards = [shard for *_, shard in store.manifest.shards("train")]
    probed = shards[:: max(1, len(shards) // N_PROBES)][:N_PROBES]
    remote = store.remote
    for shard in probed:
        url = remote.url_of(shard.file)
        try:
            n_bytes = remote.files.info(url).get("size")
        except FileNotFoundError:
            raise DataError(
                f"{url}: missing, though the manifest names it; copy the dataset there again"
            ) from None
        if n_bytes not in (None, shard.n_file_bytes):
            raise DataError(
                f"{url}: {n_bytes:,} bytes, and the manifest says {shard.n_file_bytes:,}; copy "
                "the dataset there again"
            )
    return Seen(f"{len(probed)} of {len(shards)} shards asked for, all there")


def look_at_hashes(context: Context) -> Seen | None:
    """Read every shard, each node all of them, and its ranks in turn."""
    if not context.options.hashes:
        return None
    run = context.of_run
    store = open_store(run.data.path, run.data.cache)
    shards = [shard for split in SPLITS for *_, shard in store.manifest.shards(split)]
    n_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    own = shards[context.number_on_node % n_local :: n_local]
    for shard in own:
        check_hash(store.shard(shard), shard.sha256)
    store.close()
    return Seen(f"all {len(shards)} shards read, every byte as it was written")


def look_at_epochs(context: Context) -> dict[str, Any] | None:
    """Count how often the run reads each source."""
    if context.rank:
        return None
    run = context.of_run
    n_run = run.training.n_steps * run.training.batch_rows * run.data.n_context
    store = open_store(run.data.path, run.data.cache)
    sources = store.manifest.splits["train"]
    weights = check_weights(run.data.weights, sorted(sources))
    total = sum(weights.values())
    epochs = {
        name: n_run * weight / total / max(1, sources[name].n_tokens)
        for name, weight in weights.items()
    }
    n_tokens = sum(sources[name].n_tokens for name in weights)
    return {"n_run": n_run, "n_tokens": n_tokens, "epochs": epochs}


def judge_epochs(facts: Facts) -> Seen:
    """Warn where a source is read too often."""
    told = facts.by_rank[0]
    by_most = sorted(told["epochs"].items(), key=lambda item: -item[1])
    listed = ", ".join(f"{name} {epochs:.2f}" for name, epochs in by_most[:6])
    found = (
        f"{told['n_run']:,} tokens to train on, {told['n_tokens']:,} in the dataset; "
        f"epochs: {listed}{', ...' if len(by_most) > 6 else ''}"
    )
    if by_most[0][1] > MANY_EPOCHS:
        advice = "add data, weight that source less, or train for fewer steps"
        return Seen(found, "warning", advice)
    return Seen(found)
