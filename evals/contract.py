"""What every result of an evaluation carries, and the refusal to compare what cannot be.

A figure means something only beside the set, the tokenizer, the checkpoint and the arithmetic that
it was made with. All of them are in the result, by their hashes, so that two results tell by
themselves whether they may stand in one table.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import helix
from helix.config import ConfigError, write_whole

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was evaluated, and how.

    Attributes:
        name: Run folder, or model, as a person calls it.
        checkpoint: SHA-256 of the checkpoint's manifest, which hashes all its files.
        step: Optimizer steps that it has taken.
        tokenizer: The tokenizer's fingerprint.
        precision: Of weights and arithmetic.
        backends: Kernel to the backend that ran.
        device: In words.
    """

    name: str
    checkpoint: str
    step: int
    tokenizer: str
    precision: str
    backends: dict[str, str]
    device: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """One evaluation of one subject.

    Attributes:
        evaluation: Its name, as on the command line.
        settings: What the figures depend on beside subject and set.
        sets: Part of the evaluation set to the hash of its content and order.
        figures: Part to its figures; what a part is depends on the evaluation.
        warnings: What a reader must know before believing the figures.
    """

    evaluation: str
    subject: Subject
    settings: dict[str, Any]
    sets: dict[str, str]
    figures: dict[str, Any]
    warnings: list[str]
    helix_version: str = helix.__version__
    format: int = FORMAT

    def to_json(self) -> str:
        """Write the result; the same evaluation gives the same text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the result to a file, whole or not at all."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), self.to_json())


def read_result(path: str | Path) -> Result:
    """Read a result.

    Raises:
        ConfigError: The file is missing or holds none.
    """
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            raise ValueError(f"format {fields['format']}, this helix reads {FORMAT}")
        return Result(**fields | {"subject": Subject(**fields["subject"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: no result of an evaluation ({error}); helix evaluate ... out={path} makes one"
        ) from None


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
                "different text cannot be compared; evaluate both on one dataset and max_bytes"
            )
    for name in sorted(ours.settings.keys() | theirs.settings.keys()):
        one, other = ours.settings.get(name), theirs.settings.get(name)
        if one != other:
            raise ConfigError(f"{name}: {one} and {other}: evaluate both with one setting")


def shorten(digest: str | None) -> str:
    """Cut a hash to what a person compares."""
    return digest[:12] if digest else "not there"
