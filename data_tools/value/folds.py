"""Folds of a cross-validation: no text, no translation and, if asked, no source is in two."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_tools.value.labels import Example


def assign_folds(examples: Sequence[Example], *, n_folds: int, by_source: bool) -> NDArray[np.intp]:
    """Give the fold of each example, whatever the order they come in.

    Args:
        by_source: Keep each source together too, and all sources that share a text or a pair.
    """
    parents: dict[str, str] = {}
    keys = [list_keys(example, by_source=by_source) for example in examples]
    for own in keys:
        for key in own:
            join(parents, own[0], key)
    names = [find(parents, own[0]) for own in keys]
    if not by_source:
        return np.array([hash_name(name) % n_folds for name in names], dtype=np.intp)
    # few and of unlike weight: dealt out in the order of their hashes, so that no fold is empty
    ordered = sorted(set(names), key=lambda name: (hash_name(name), name))
    fold_of = {name: number % n_folds for number, name in enumerate(ordered)}
    return np.array([fold_of[name] for name in names], dtype=np.intp)


def list_keys(example: Example, *, by_source: bool) -> list[str]:
    """Name what an example may share with others."""
    keys = ["text " + hashlib.blake2b(example.text.encode("utf-8", "surrogatepass")).hexdigest()]
    if example.pair:
        keys.append("pair " + example.pair)
    if by_source:
        keys.append("source " + example.source)
    return keys


def find(parents: dict[str, str], key: str) -> str:
    """Give the name of the set that a key is in: its smallest key."""
    root = key
    while parents.setdefault(root, root) != root:
        root = parents[root]
    while parents[key] != root:
        parents[key], key = root, parents[key]
    return root


def join(parents: dict[str, str], one: str, other: str) -> None:
    """Make one set of two."""
    low, high = sorted((find(parents, one), find(parents, other)))
    parents[high] = low


def hash_name(name: str) -> int:
    """Hash a name, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
