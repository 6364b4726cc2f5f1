"""What a decontamination vouches for, and the refusal of everything else.

report.json names each evaluation file with its sha256, and two files of sorted 16-byte blake2b
hashes of texts: those that were checked and are clean, and those that overlap.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_tools.documents import Document
from data_tools.fingerprints import hash_text
from helix.data import DataError
from helix.data.files import hash_file

REPORT = "report.json"
CLEAN = "clean.hashes"
OVERLAPPING = "overlapping.hashes"
CONTRACT = (
    "data_tools.overlap_report.refuse_overlap(report, documents) passes on the documents whose "
    "texts' hashes (blake2b, 16 bytes, of the UTF-8) are in clean.hashes, and refuses the first "
    "that is in overlapping.hashes or in neither"
)


@dataclass(frozen=True)
class HashFile:
    """A file of sorted hashes, as the report names it."""

    file: str
    n_hashes: int
    sha256: str


def sort_hashes(path: Path) -> HashFile:
    """Sort a file of hashes in place, each once, and describe it."""
    hashes = np.unique(np.fromfile(path, "S16"))
    hashes.tofile(path)
    return HashFile(path.name, len(hashes), hash_file(path))


def refuse_overlap(
    report: str | Path, documents: Iterable[Document], *, against: Sequence[str | Path] = ()
) -> Iterator[Document]:
    """Pass documents on while `helix data decontaminate` has found each of them clean.

    Args:
        report: Its report.json, or the folder that holds it.
        against: Evaluation files that the report must cover, as they are now.

    Raises:
        DataError: A document overlaps, was not checked, or the report is damaged or does not cover
            an evaluation file.
    """
    path = Path(report)
    path = path / REPORT if path.is_dir() else path
    content = read_report(path)
    for file in against:
        require_evaluation(content, Path(file), path)
    clean = open_hashes(content, "clean", path)
    overlapping = open_hashes(content, "overlapping", path)
    for document in documents:
        digest = hash_text(document.text)
        if contains(overlapping, digest):
            raise DataError(
                f"document {document.id} of {document.source} overlaps an evaluation set ({path}); "
                f"take the documents beside that report, which are without it"
            )
        if not contains(clean, digest):
            raise DataError(
                f"document {document.id} of {document.source} was not checked against the "
                f"evaluation sets ({path}); run helix data decontaminate on it as it is now"
            )
        yield document


def read_report(path: Path) -> dict[str, dict[str, object]]:
    """Read a report, or say that it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if {"clean", "overlapping", "evaluations"} <= content.keys():
            return content
    except (OSError, ValueError, AttributeError):
        pass
    raise DataError(f"{path}: no report of helix data decontaminate; run that first")


def require_evaluation(content: dict, evaluation: Path, path: Path) -> None:
    """Require that a report covers an evaluation file as it is now."""
    if not evaluation.is_file():
        raise DataError(f"{evaluation}: no such file")
    if hash_file(evaluation) not in {entry["sha256"] for entry in content["evaluations"]}:
        raise DataError(
            f"{path}: does not cover {evaluation} as it is now; run helix data decontaminate "
            f"against={evaluation}"
        )


def open_hashes(content: dict, kind: str, path: Path) -> NDArray[np.bytes_]:
    """Map a file of hashes, once its own hash is found right."""
    file = path.parent / Path(content[kind]["file"]).name
    if not file.is_file() or hash_file(file) != content[kind]["sha256"]:
        raise DataError(f"{file}: missing or changed since {path}; decontaminate again")
    if not file.stat().st_size:
        return np.empty(0, "S16")
    return np.memmap(file, "S16", "r")


def contains(hashes: NDArray[np.bytes_], digest: bytes) -> bool:
    """Tell whether sorted hashes contain one."""
    wanted = np.array(digest, "S16")
    at = int(np.searchsorted(hashes, wanted))
    return at < len(hashes) and bool(hashes[at] == wanted)
