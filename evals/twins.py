"""The gap between languages, on translated twins: the same content, so the same surprise.

    gap per byte      = bits per byte of one language / bits per byte of the other
    gap per document  = bits of one language / bits of the other

German needs more bytes for the same meaning, which a gap per byte hides; a gap per document does
not. On other text than twins a gap says what was sampled, not what the model knows.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evals.contract import Measure, bootstrap, interval


class Twin(Protocol):
    """A document that was scored and may have translations."""

    @property
    def language(self) -> str:
        """ISO 639 code."""
        ...

    @property
    def pair(self) -> str:
        """The same in all translations; empty where there are none."""
        ...

    @property
    def bits(self) -> float:
        """What the document cost."""
        ...

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of its text."""
        ...


def find_twins(documents: Sequence[Twin]) -> dict[tuple[str, str], list[tuple[Twin, Twin]]]:
    """Find the documents that are there in two languages.

    Returns:
        Two languages, in alphabetical order, to the pairs that are there in both.
    """
    by_pair: dict[str, dict[str, Twin]] = {}
    for document in documents:
        if document.pair:
            by_pair.setdefault(document.pair, {})[document.language] = document
    found: dict[tuple[str, str], list[tuple[Twin, Twin]]] = {}
    for twins in by_pair.values():
        for one, other in combinations(sorted(twins), 2):
            found.setdefault((one, other), []).append((twins[one], twins[other]))
    return dict(sorted(found.items()))


def measure_twins(documents: Sequence[Twin]) -> dict[str, Measure]:
    """Measure each language on the twins, and what the dearer costs per document over the other.

    The larger over the smaller, as the gap is the better the nearer it is to 1, from either side.
    """
    measures: dict[str, Measure] = {}
    for (one, other), pairs in find_twins(documents).items():
        bits, n_bytes = as_arrays(pairs)
        dearer = int(bits.sum(axis=0).argmax())
        for column, language in enumerate((one, other)):
            measures[f"twins/{one}-{other}/{language}/bits_per_byte"] = Measure(
                numerators=bits[:, column].tolist(),
                denominators=n_bytes[:, column].tolist(),
                unit="bits/byte",
                is_lower_better=True,
            )
        measures[f"twins/{one}-{other}/gap_per_document"] = Measure(
            numerators=bits[:, dearer].tolist(),
            denominators=bits[:, 1 - dearer].tolist(),
            unit="bits of the dearer / of the cheaper",
            is_lower_better=True,
        )
    return measures


def describe_twins(documents: Sequence[Twin]) -> dict[str, dict[str, Any]]:
    """Name the gap per byte and per document; pairs are drawn anew together for an interval."""
    figures: dict[str, dict[str, Any]] = {}
    for (one, other), pairs in find_twins(documents).items():
        bits, n_bytes = as_arrays(pairs)
        draws = [bootstrap(bits[:, column], n_bytes[:, column]) for column in (0, 1)]
        totals, lengths = bits.sum(axis=0), n_bytes.sum(axis=0)
        figures[f"{one}/{other}"] = {
            "n_pairs": len(pairs),
            "gap_per_byte": float(totals[0] / lengths[0] / (totals[1] / lengths[1])),
            "gap_interval_95": interval(draws[0] / draws[1]),
            "gap_per_document": float(totals[0] / totals[1]),
            "byte_ratio": float(lengths[0] / lengths[1]),
        }
    return figures


def as_arrays(
    pairs: Sequence[tuple[Twin, Twin]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give bits and bytes, one row a pair, one column a language."""
    bits = np.array([[twin.bits for twin in pair] for pair in pairs])
    n_bytes = np.array([[float(twin.n_bytes) for twin in pair] for pair in pairs])
    return bits, n_bytes
