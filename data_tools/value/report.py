"""The report of `value`: how good the scorer is, what was kept, and of which subjects it is."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from data_tools.clean.report import (
    Count,
    SourceReport,
    add_count,
    add_sources,
    lay_out,
    megabytes,
    share,
)
from data_tools.value.subjects import SUBJECTS

LOW_VALUE = "low_value"  # the reason that a document is dropped for
VALIDATIONS = {
    "held_out_documents": "documents left out",
    "held_out_sources": "whole sources left out",
}


@dataclass
class SourceValue(SourceReport):
    """What became of one source.

    Attributes:
        threshold: Score that its documents had to reach.
        subjects: Documents and bytes of each subject, as they came.
        kept_subjects: The same, of what was kept.
    """

    threshold: float = 0.0
    subjects: dict[str, Count] = field(default_factory=dict)
    kept_subjects: dict[str, Count] = field(default_factory=dict)

    def add(self, n_bytes: int, subject: str, *, is_kept: bool) -> None:
        """Count one document."""
        self.read.add(n_bytes)
        self.subjects.setdefault(subject, Count()).add(n_bytes)
        if is_kept:
            self.kept.add(n_bytes)
            self.kept_subjects.setdefault(subject, Count()).add(n_bytes)
        else:
            self.dropped.setdefault(LOW_VALUE, Count()).add(n_bytes)


@dataclass(frozen=True, kw_only=True)
class ValueReport:
    """What `value` did.

    Attributes:
        options: Those that decide what is kept.
        scorer: Hash of the scorer.
        training: What it was trained on, and how well it does.
        sources: What became of each source.
    """

    options: Mapping[str, Any]
    scorer: str
    training: Mapping[str, Any]
    sources: Mapping[str, SourceValue]

    def total(self) -> SourceReport:
        """Add all sources up."""
        return add_sources(self.sources.values())

    def to_json(self) -> str:
        """Give the report as JSON, the same for the same input."""
        content = asdict(self) | {"total": asdict(self.total())}
        return json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n"

    def to_table(self) -> str:
        """Lay out how good the scorer is, what was kept of each source, and the profile."""
        parts = [self.tabulate_validation(), self.tabulate_kept(), self.tabulate_profile()]
        if self.training.get("labels") == "domains":
            parts.append(
                "The labels were the documents' domains: the score tells running prose from lists "
                "of glosses,\nnot whether a text is worth knowing. Give labels=FILE.jsonl."
            )
        return "\n\n".join(parts)

    def tabulate_validation(self) -> str:
        """Lay out how well scores foretell the labels of what was left out."""
        rows = [("scorer", "R2", "Spearman", "mean error", "error of the mean")]
        for name, title in VALIDATIONS.items():
            found = self.training.get(name)
            names = ("r2", "spearman", "mean_absolute_error", "baseline_error")
            cells = [f"{found[name]:.3f}" if found else "-" for name in names]
            rows.append((title, cells[0], cells[1], cells[2], cells[3]))
        return lay_out(rows, n_left=1)

    def tabulate_kept(self) -> str:
        """Lay out what was kept of each source."""
        rows: list[tuple[str, ...]] = [
            ("source", "threshold", "documents", "MB", "kept", "MB kept", "kept of MB")
        ]
        for name, source in [*sorted(self.sources.items()), ("total", self.total())]:
            threshold = f"{source.threshold:.3f}" if isinstance(source, SourceValue) else ""
            rows.append(
                (
                    name,
                    threshold,
                    f"{source.read.documents:,}",
                    megabytes(source.read.bytes),
                    f"{source.kept.documents:,}",
                    megabytes(source.kept.bytes),
                    share(source.kept.bytes, source.read.bytes),
                )
            )
        return lay_out(rows, n_left=1)

    def tabulate_profile(self) -> str:
        """Lay out the share of bytes of each subject, per source, read and kept."""
        rows = [("knowledge profile", *SUBJECTS)]
        rows += [
            (name, *shares_of(source.subjects)) for name, source in sorted(self.sources.items())
        ]
        sources = list(self.sources.values())
        rows.append(("all, read", *shares_of(add_subjects([own.subjects for own in sources]))))
        rows.append(("all, kept", *shares_of(add_subjects([own.kept_subjects for own in sources]))))
        return lay_out(rows, n_left=1)


def add_subjects(parts: list[dict[str, Count]]) -> dict[str, Count]:
    """Add counts of subjects."""
    total: dict[str, Count] = {}
    for part in parts:
        for subject, count in part.items():
            add_count(total.setdefault(subject, Count()), count)
    return total


def shares_of(subjects: Mapping[str, Count]) -> list[str]:
    """Write the share of bytes of each subject."""
    whole = sum(count.bytes for count in subjects.values())
    return [share(subjects.get(subject, Count()).bytes, whole) for subject in SUBJECTS]
