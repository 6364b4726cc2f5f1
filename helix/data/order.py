"""The order in which documents are drawn, and the weights that sources are drawn by.

Dims: N documents of a source.
"""

import difflib
import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Int64

from helix.data.manifest import DataError


def document_order(
    n_documents: int, *, seed: int, source: str, epoch: int
) -> Int64[np.ndarray, " N"]:
    """Give the order in which an epoch visits the documents of a source.

    It sorts Philox's raw output, which NumPy keeps the same for ever, and not
    `Generator.permutation`, which it may change between versions (NEP 19).
    """
    key = hashlib.blake2b(f"{seed}/{epoch}/{source}".encode(), digest_size=16).digest()
    random = np.random.Philox(key=np.frombuffer(key, "<u8")).random_raw(n_documents)
    return np.argsort(random, kind="stable")


def check_weights(weights: Mapping[str, float], sources: Iterable[str]) -> dict[str, float]:
    """Give every source its weight; none given means equal weights.

    Raises:
        DataError: A weight names no source, or a source has no weight.
    """
    sources = list(sources)
    if not weights:
        return dict.fromkeys(sources, 1.0)
    for name in weights:
        if name not in sources:
            near = difflib.get_close_matches(name, sources, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sources)}"
            raise DataError(f"data.weights.{name}: the dataset has no such source; {hint}")
    for name in sources:
        if name not in weights:
            raise DataError(f"data.weights: no weight for {name!r}; give one, 0 leaves it out")
    return {name: float(weights[name]) for name in sources if weights[name] > 0}
