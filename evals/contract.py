"""What every result of an evaluation carries, and the refusal to compare what cannot be.

A figure means something only beside the set, the tokenizer, the checkpoint and the arithmetic that
it was made with. All of them are in the result, by their hashes, so that two results tell by
themselves whether they may stand in one table.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import helix
from helix.config import ConfigError, write_whole

FORMAT = 2
N_BOOTSTRAPS = 1000
INTERVAL = (0.025, 0.975)
# Drawn anew, 3 items tell two equal models apart in 17% of trials, 2 in 38%, 8 in 10%.
LEAST_ITEMS = 8
SHARE = "share"  # unit of what lies between none and all
N_NAMED = 12  # characters of a hash that a person compares


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was evaluated, and how.

    Attributes:
        name: Run folder, or model, as a person calls it.
        checkpoint: SHA-256 of what defines the weights: a run's checkpoint manifest, which hashes
            all its files, or the weight files of a Hugging Face model.
        step: Optimizer steps that it has taken; None where that is not known.
        tokenizer: The tokenizer's fingerprint.
        precision: Of weights and arithmetic.
        backends: Kernel to the backend that ran.
        device: In words.
        n_parameters: Of the model, a tied weight counted once.
    """

    name: str
    checkpoint: str
    step: int | None
    tokenizer: str
    precision: str
    backends: dict[str, str]
    device: str
    n_parameters: int


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A figure that is a ratio of sums over the items of a set, in the set's order.

        value = sum(numerators) / sum(denominators)

    A mean has denominators of 1. Items are what an interval draws anew: documents, questions.

    Attributes:
        numerators: One an item.
        denominators: One an item.
        unit: Of the value, as "bits/byte" or "share".
    """

    numerators: list[float]
    denominators: list[float]
    unit: str
    is_lower_better: bool

    @classmethod
    def mean(cls, values: Iterable[float], *, unit: str, is_lower_better: bool) -> "Measure":
        """Measure a mean over items."""
        numerators = [float(value) for value in values]
        return cls(
            numerators=numerators,
            denominators=[1.0] * len(numerators),
            unit=unit,
            is_lower_better=is_lower_better,
        )

    @property
    def value(self) -> float:
        """The figure; NaN without items."""
        total = math.fsum(self.denominators)
        return math.fsum(self.numerators) / total if total else math.nan

    @cached_property
    def interval_95(self) -> tuple[float, float]:
        """Where the figure lies for 95% of sets drawn anew from these items.

        Of a share of none or all each draw is the same: there the exact bound is given, of as many
        trials as the denominators count (Clopper and Pearson 1934, Biometrika 26).
        """
        if self.unit == SHARE and self.value in (0, 1):
            missed = INTERVAL[0] ** (1 / math.fsum(self.denominators))
            return (0.0, 1 - missed) if self.value == 0 else (missed, 1.0)
        return interval(bootstrap(np.array(self.numerators), np.array(self.denominators)))

    def to_dict(self) -> dict[str, Any]:
        """Give what is written of it; value and interval are there to be read, not to be used."""
        return asdict(self) | {"value": self.value, "interval_95": self.interval_95}


def bootstrap(
    numerators: NDArray[np.float64], denominators: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Draw items anew, each time as many, from a fixed seed; give each draw's ratio of sums."""
    n_items = len(numerators)
    if n_items == 0:
        return np.full(1, np.nan)
    draw = np.random.default_rng(0).multinomial(
        n_items, np.full(n_items, 1 / n_items), size=N_BOOTSTRAPS
    )
    return (draw @ numerators) / (draw @ denominators)


def interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Give the bounds between which 95% of the draws lie."""
    low, high = np.quantile(draws, INTERVAL)
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One evaluation of one subject.

    Attributes:
        evaluation: Its name, as on the command line.
        settings: What the figures depend on beside subject and set.
        sets: Part of the evaluation set to the hash of its content and order.
        measures: Figures with their items: what is compared and drawn.
        figures: What else is worth keeping: baselines, tables, samples.
        warnings: What a reader must know before believing the figures.
    """

    evaluation: str
    subject: Subject
    settings: dict[str, Any]
    sets: dict[str, str]
    measures: dict[str, Measure]
    figures: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    helix_version: str = helix.__version__

    def to_dict(self) -> dict[str, Any]:
        """Give what is written of the result."""
        fields = {name: value for name, value in vars(self).items() if name != "measures"}
        measures = {name: measure.to_dict() for name, measure in self.measures.items()}
        return finite(fields | {"subject": asdict(self.subject), "measures": measures})


def to_json(results: Sequence[Result]) -> str:
    """Write results; the same evaluations give the same text."""
    written = {"format": FORMAT, "results": [result.to_dict() for result in results]}
    text = json.dumps(written, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text + "\n"


def save_results(results: Sequence[Result], path: str | Path) -> None:
    """Write results to a file, whole or not at all."""
    prove_writable(path)
    write_whole(Path(path), to_json(results))


def prove_writable(out: str | Path) -> None:
    """Make a file's folder and write into it, before work is done for a file that cannot be.

    Raises:
        ConfigError: The file cannot be written there.
    """
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=Path(out).parent):
            pass
    except OSError as error:
        raise ConfigError(f"out={out}: cannot be written ({error.strerror})") from None
    if Path(out).is_dir():
        raise ConfigError(f"out={out}: is a folder; give a file")


class OtherFiguresError(ConfigError):
    """A file is of `helix evaluate throughput`, whose figures are of no examinee and no items."""


def read_results(path: str | Path) -> list[Result]:
    """Read the results of a file.

    Raises:
        ConfigError: The file is missing or holds none.
    """
    try:
        written = json.loads(Path(path).read_text(encoding="utf-8"))
        if "format" not in written and "sections" in written:
            raise OtherFiguresError(f"{path}: figures of evaluate throughput, no result of a model")
        if written["format"] != FORMAT:
            raise ValueError(f"format {written['format']}, this helix reads {FORMAT}")
        return [read_result(fields) for fields in written["results"]]
    except OtherFiguresError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: no result of an evaluation ({error}); helix evaluate ... out={path} makes one"
        ) from None


def read_result(fields: dict[str, Any]) -> Result:
    """Read one result from what was written of it."""
    derived = ("value", "interval_95")
    measures = {}
    for name, own in fields["measures"].items():
        held: dict[str, Any] = {key: value for key, value in own.items() if key not in derived}
        for sums in ("numerators", "denominators"):
            held[sums] = [math.nan if value is None else value for value in held[sums]]
        measures[name] = Measure(**held)
    subject = Subject(**fields["subject"])
    return Result(**fields | {"subject": subject, "measures": measures})


def refuse_other_sets(ours: Result, theirs: Result) -> None:
    """Refuse to compare results that are not of the same set.

    Raises:
        ConfigError: It names the first difference.
    """
    if ours.evaluation != theirs.evaluation:
        raise ConfigError(
            f"{ours.evaluation} and {theirs.evaluation} are different evaluations: nothing to "
            "compare"
        )
    for part in sorted(ours.sets.keys() | theirs.sets.keys()):
        one, other = ours.sets.get(part), theirs.sets.get(part)
        if one != other:
            raise ConfigError(
                f"{part}: the sets differ ({shorten(one)} and {shorten(other)}): figures of "
                "different text cannot be compared; evaluate both on one set, with one size"
            )
    for name in sorted(ours.settings.keys() | theirs.settings.keys()):
        one, other = ours.settings.get(name), theirs.settings.get(name)
        if one != other:
            raise ConfigError(f"{name}: {one} and {other}: evaluate both with one setting")


def hash_texts(texts: Iterable[str]) -> str:
    """Hash texts and their order; where one ends and the next begins counts, too."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def shorten(digest: str | None) -> str:
    """Cut a hash to what a person compares."""
    return digest[:N_NAMED] if digest else "not there"


def finite(tree: Any) -> Any:
    """Give plain values with None for each number that JSON has none for."""
    if isinstance(tree, Mapping):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
