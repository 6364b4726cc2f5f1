"""The report of a cleaning: what went in, what was kept, what was dropped by which rule."""

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SAMPLE_CHARACTERS = 2000


@dataclass(slots=True)
class Count:
    """Documents and the UTF-8 bytes of their text."""

    documents: int = 0
    bytes: int = 0

    def add(self, n_bytes: int) -> None:
        """Count one more document."""
        self.documents += 1
        self.bytes += n_bytes


@dataclass(slots=True)
class SourceReport:
    """What became of one source.

    Attributes:
        read: As the documents came.
        kept: As they were written.
        dropped: By reason, in bytes as they came.
        changed: Documents mended, by what was mended; those that were dropped later too.
    """

    read: Count = field(default_factory=Count)
    kept: Count = field(default_factory=Count)
    dropped: dict[str, Count] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)

    def count_changes(self, changes: Mapping[str, int]) -> None:
        """Count documents mended."""
        for change, n_documents in changes.items():
            self.changed[change] = self.changed.get(change, 0) + n_documents


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A document that was dropped; a long text is cut to its first 2,000 characters."""

    source: str
    reason: str
    id: str
    language: str
    text: str


class SampleKeeper:
    """Keeps a bounded number of dropped documents for each rule and source.

    Those with the smallest hashes of their text: a choice that is fair, and the same for any order
    of the documents and any number of processes.
    """

    def __init__(self, n_samples: int) -> None:
        self.n_samples = n_samples
        self._heaps: dict[tuple[str, str], list[tuple[int, str, Sample]]] = {}

    def offer(self, sample: Sample) -> None:
        """Keep a document if its hash is among the smallest; equal texts count once."""
        if not self.n_samples:
            return
        digest = hashlib.blake2b(sample.text.encode(), digest_size=8).digest()
        entry = (-int.from_bytes(digest, "big"), sample.id, sample)
        heap = self._heaps.setdefault((sample.source, sample.reason), [])
        if any(entry[0] == other[0] for other in heap):
            return
        if len(heap) < self.n_samples:
            heapq.heappush(heap, entry)
        elif entry[0] > heap[0][0]:
            heapq.heapreplace(heap, entry)

    def samples(self) -> list[Sample]:
        """List the samples by source, reason and hash, each cut to `SAMPLE_CHARACTERS`."""
        chosen = [
            sample
            for key in sorted(self._heaps)
            for _, _, sample in sorted(self._heaps[key], key=lambda entry: -entry[0])
        ]
        return [
            Sample(**asdict(sample) | {"text": sample.text[:SAMPLE_CHARACTERS]})
            for sample in chosen
        ]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a cleaning did.

    Attributes:
        options: As they were given, but for `inputs` and `out`.
        files: Names of the files written, by source.
        sources: What became of each source.
    """

    options: dict[str, Any]
    files: dict[str, str]
    sources: dict[str, SourceReport]

    def total(self) -> SourceReport:
        """Add all sources up."""
        return add_sources(self.sources.values())

    def to_json(self) -> str:
        """Give the report as JSON, the same for the same input."""
        content = asdict(self) | {"total": asdict(self.total())}
        return json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n"

    def to_table(self) -> str:
        """Lay out what was kept of each source, and what each rule dropped of it."""
        total = self.total()
        named = [*sorted(self.sources.items()), ("total", total)]
        kept = [("source", "documents", "MB", "kept", "MB kept", "kept of MB")] + [
            (
                name,
                f"{source.read.documents:,}",
                megabytes(source.read.bytes),
                f"{source.kept.documents:,}",
                megabytes(source.kept.bytes),
                share(source.kept.bytes, source.read.bytes),
            )
            for name, source in named
        ]
        dropped = [("dropped by", "source", "documents", "MB", "of its MB")] + [
            (
                reason,
                name,
                f"{source.dropped[reason].documents:,}",
                megabytes(source.dropped[reason].bytes),
                share(source.dropped[reason].bytes, source.read.bytes),
            )
            for reason in sorted(total.dropped, key=lambda name: -total.dropped[name].bytes)
            for name, source in named
            if reason in source.dropped
        ]
        changed = [("mended", "documents")] + [
            (change, f"{n_documents:,}") for change, n_documents in sorted(total.changed.items())
        ]
        tables = (
            lay_out(kept, n_left=1),
            lay_out(dropped, n_left=2),
            lay_out(changed, n_left=1),
        )
        return "\n\n".join(tables)


def add_sources(sources: Iterable[SourceReport]) -> SourceReport:
    """Add up what became of several sources."""
    total = SourceReport()
    for source in sources:
        add_count(total.read, source.read)
        add_count(total.kept, source.kept)
        for reason, count in source.dropped.items():
            add_count(total.dropped.setdefault(reason, Count()), count)
        total.count_changes(source.changed)
    return total


def add_count(total: Count, count: Count) -> None:
    """Add a count to another."""
    total.documents += count.documents
    total.bytes += count.bytes


def megabytes(n_bytes: int) -> str:
    """Write bytes as MB."""
    return f"{n_bytes / 1e6:,.2f}"


def share(part: int, whole: int) -> str:
    """Write a share as per cent."""
    return f"{part / whole:.1%}" if whole else "-"


def lay_out(rows: Sequence[Sequence[str]], *, n_left: int) -> str:
    """Lay out rows in columns, the first `n_left` to the left; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(align(row, widths, n_left)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def align(row: Iterable[str], widths: Sequence[int], n_left: int) -> list[str]:
    """Pad the cells of a row."""
    return [
        cell.ljust(width) if column < n_left else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
