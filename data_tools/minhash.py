"""MinHash and its bands: texts that share many shingles fall into a common bucket.

    P(two texts share a bucket) = 1 - (1 - s^r)^b,  s their Jaccard similarity, b bands of r rows

Source: Broder 1997, "On the resemblance and containment of documents"; bands: Leskovec, Rajaraman
& Ullman, "Mining of Massive Datasets", section 3.4. Signatures are rensa's R-MinHash.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.shingles import GOLDEN, Hashes, mix, multipliers
from helix.data import DataError

LEAST_RECALL = 0.98  # of pairs at the threshold; what collides below it is verified, not removed
SEED = 4  # of the permutations; any will do, but always the same


@dataclass(frozen=True)
class Bands:
    """How a signature is cut: `n_bands` of `n_rows`.

    Attributes:
        recall: Share of the pairs exactly at the threshold that meet in a bucket.
    """

    n_bands: int
    n_rows: int
    recall: float


def choose_bands(n_permutations: int, threshold: float) -> Bands:
    """Choose the longest bands, hence the fewest candidates, that keep LEAST_RECALL.

    Raises:
        DataError: The permutations are too few for so low a threshold.
    """
    for n_rows in range(n_permutations, 0, -1):
        n_bands = n_permutations // n_rows
        recall = 1 - (1 - threshold**n_rows) ** n_bands
        if recall >= LEAST_RECALL:
            return Bands(n_bands, n_rows, recall)
    raise DataError(
        f"threshold={threshold}: {n_permutations} permutations find too few of such pairs; give "
        "more n_permutations or a higher threshold"
    )


def band_keys(shingles: Sequence[Hashes], bands: Bands) -> NDArray[np.int64]:
    """Give the bucket of each text in each band; the texts have at least one shingle each."""
    n_rows = bands.n_bands * bands.n_rows
    signatures = np.array(sign(shingles, n_rows), np.uint64)
    rows = mix(signatures).reshape(len(shingles), bands.n_bands, bands.n_rows)
    keys = (rows * multipliers(bands.n_rows)).sum(axis=2, dtype=np.uint64)
    return mix(keys + np.arange(bands.n_bands, dtype=np.uint64) * GOLDEN).view(np.int64)


def sign(shingles: Sequence[Hashes], n_permutations: int) -> list[list[int]]:
    """Give the MinHash signature of each set of shingles."""
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]  no stubs; an extra

    ends = np.cumsum([0, *map(len, shingles)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(shingles), ends, n_permutations, SEED
    )
    return matrix.to_rows()
