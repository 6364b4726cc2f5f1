"""The scorer: a ridge regression from the features of a text to what people said it is worth.

    score = intercept + sum over groups of mean(weight[bucket]) + form . weight

A frequency is divided by the root of its mean over the training texts, so that rare words count;
that factor is folded into the weights, and a text is scored by looking its buckets up.

A score is rounded to `N_STEPS` steps of the labels' range: it is then the same to the bit whatever
order a machine adds in, and a histogram of all scores is exact in bounded memory.

Imports nothing heavy, for each worker process loads it.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.clean.statistics import TextStatistics
from data_tools.value.features import (
    FORMS,
    GROUPS,
    N_BUCKETS,
    READ_CHARACTERS,
    VERSION,
    Features,
    read_features,
)

N_STEPS = 1000
FORMAT = "helix value scorer"
SETTINGS = {
    "format": FORMAT,
    "version": VERSION,
    "groups": list(GROUPS),
    "n_buckets": N_BUCKETS,
    "forms": list(FORMS),
    "read_characters": READ_CHARACTERS,
}
MAX_DEVIATIONS = 4.0  # of a form's value from the mean, in standard deviations: no text runs away
ARRAYS = {"weights": (len(GROUPS), N_BUCKETS), "form": (3, len(FORMS))}


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Weights, as trained.

    Attributes:
        weights: Of the buckets of each group.
        form: Rows: mean, standard deviation and weight of each form.
        intercept: The score of a text of which nothing is known.
        low: The lowest label.
        high: The highest label.
        training: What it was trained on and how well it did, for people.
    """

    weights: NDArray[np.float32]
    form: NDArray[np.float64]
    intercept: float
    low: float
    high: float
    training: Mapping[str, Any]

    @property
    def step(self) -> float:
        """The distance of two neighbouring scores."""
        return (self.high - self.low) / N_STEPS

    def predict(self, features: Features) -> float:
        """Score features, unrounded and unbounded."""
        means = [
            float(own[buckets].mean(dtype=np.float64)) if len(buckets) else 0.0
            for own, buckets in zip(self.weights, features.buckets, strict=True)
        ]
        return (
            self.intercept
            + sum(means)
            + float(standardise(features.form, self.form) @ self.form[2])
        )

    def score_step(self, statistics: TextStatistics) -> int:
        """Give the number of steps above `low`, at most a range below it or above `high`."""
        predicted = self.predict(read_features(statistics))
        return round(min(max((predicted - self.low) / self.step, -N_STEPS), 2 * N_STEPS))

    def to_score(self, step: int) -> float:
        """Give the score of a number of steps."""
        return round(self.low + step * self.step, 9)


def standardise(form: NDArray[np.float64], moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give form in standard deviations from the training texts' mean."""
    return np.clip((form - moments[0]) / moments[1], -MAX_DEVIATIONS, MAX_DEVIATIONS)


def save_scorer(scorer: Scorer, path: Path) -> str:
    """Write `path`, a .json, and the weights to the .npz beside it; give their hash."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, weights=scorer.weights, form=scorer.form)
    content: dict[str, Any] = {
        **SETTINGS,
        "intercept": scorer.intercept,
        "low": scorer.low,
        "high": scorer.high,
        "training": dict(scorer.training),
    }
    content["sha256"] = hash_scorer(content, buffer.getvalue())
    path.with_suffix(".npz").write_bytes(buffer.getvalue())
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return content["sha256"]


def load_scorer(path: Path) -> Scorer:
    """Read a scorer; nothing is unpickled.

    Raises:
        DataError: It is missing, damaged, changed, or made with other features.
    """
    from helix.data import DataError

    again = "train it again: give labels= instead of scorer="
    if path.suffix != ".json":
        raise DataError(f"scorer={path}: give the scorer.json that `value` wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        data = path.with_suffix(".npz").read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"scorer={path}: {error.filename} is missing; {again}") from None
    except ValueError as error:
        raise DataError(f"scorer={path}: is no JSON ({error}); {again}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"scorer={path}: is no scorer; give the scorer.json that `value` wrote")
    for name, value in SETTINGS.items():
        if content.get(name) != value:
            raise DataError(
                f"scorer={path}: has {name} {content.get(name)!r}, this version {value!r}; {again}"
            )
    if content.get("sha256") != hash_scorer(content, data):
        raise DataError(f"scorer={path}: it or its .npz was changed or damaged; {again}")
    return build_scorer(content, read_arrays(data, path), path)


def build_scorer(
    content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], path: Path
) -> Scorer:
    """Check the values of a scorer."""
    from helix.data import DataError

    try:
        intercept, low, high = (float(content[name]) for name in ("intercept", "low", "high"))
        training = dict(content["training"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"scorer={path}: a value is missing or wrong ({error})") from None
    is_finite = all(np.isfinite(array).all() for array in arrays.values())
    if not (is_finite and np.isfinite([intercept, low, high]).all() and low < high):
        raise DataError(f"scorer={path}: holds numbers that no training gives; train it again")
    return Scorer(**arrays, intercept=intercept, low=low, high=high, training=training)


def read_arrays(data: bytes, path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of an .npz, of the shapes that they must have."""
    from helix.data import DataError

    kinds = {"weights": np.float32, "form": np.float64}
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"scorer={path}: its .npz cannot be read ({error})") from None
    for name, shape in ARRAYS.items():
        if arrays[name].shape != shape or arrays[name].dtype != kinds[name]:
            raise DataError(
                f"scorer={path}: {name} is {arrays[name].dtype} {arrays[name].shape}, not "
                f"{np.dtype(kinds[name])} {shape}; train it again"
            )
    return arrays


def hash_scorer(content: Mapping[str, Any], data: bytes) -> str:
    """Hash all that a scorer is."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    text = json.dumps(rest, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode() + b"\n" + data).hexdigest()
