"""How fast documents are judged, and how often their subjects are right.

    python -m data_tools.value.benchmark corpus/ [subjects=labels.jsonl] [megabytes=20] [json=true]

One process, seconds of its own CPU, the best of the repeats, with an untrained scorer: weights cost
the same whatever they are. `subjects` holds rows {"id", "source", "subject"} that a person gave.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_tools.clean.report import lay_out
from data_tools.clean.statistics import TextStatistics
from data_tools.documents import Document, stream_documents
from data_tools.options import run_program
from data_tools.value.features import FORMS, GROUPS, N_BUCKETS, READ_CHARACTERS
from data_tools.value.judge import judge_texts
from data_tools.value.scorer import Scorer
from data_tools.value.subjects import SUBJECTS, find_subject
from helix.data import DataError


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Options of the benchmark.

    Attributes:
        inputs: .txt and .jsonl files, or folders of them.
        subjects: .jsonl file of rows {"id", "source", "subject"}; empty measures speed alone.
        megabytes: Text to measure on, spread over the inputs.
        n_repeats: Times that speed is measured; the best counts.
        json: Print the figures as JSON.
    """

    inputs: tuple[str, ...]
    subjects: str = ""
    megabytes: float = 20.0
    n_repeats: int = 3
    json: bool = False

    def __post_init__(self) -> None:
        if self.megabytes <= 0:
            raise ValueError(f"megabytes={self.megabytes}: give more than 0")
        if self.n_repeats < 1:
            raise ValueError(f"n_repeats={self.n_repeats}: give at least 1")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured.

    Attributes:
        megabytes_per_s: UTF-8 bytes of text by seconds of one core, score and subject.
        n_labelled: Documents whose subject a person gave.
        accuracy: Share of them that is given the same subject.
        confusion: Their number by the person's subject, then by ours.
    """

    megabytes_per_s: float
    n_labelled: int = 0
    accuracy: float = 0.0
    confusion: dict[str, dict[str, int]]


def run(options: BenchmarkOptions) -> Measurement:
    """Measure, and print a table."""
    documents = list(stream_documents(options.inputs))
    n_bytes = sum(len(document.text.encode()) for document in documents)
    chosen = documents[:: max(round(n_bytes / (options.megabytes * 1e6)), 1)]
    speed = measure_speed(chosen, n_repeats=options.n_repeats)
    pairs = compare_subjects(documents, Path(options.subjects)) if options.subjects else Counter()
    n_labelled = pairs.total()
    measurement = Measurement(
        megabytes_per_s=speed,
        n_labelled=n_labelled,
        accuracy=sum(pairs[own, own] for own in SUBJECTS) / max(n_labelled, 1),
        confusion={own: {other: pairs[own, other] for other in SUBJECTS} for own in SUBJECTS},
    )
    if options.json:
        print(json.dumps(asdict(measurement), indent=1))
        return measurement
    print(f"{speed:.1f} MB/s a core")
    if n_labelled:
        print(f"subjects: {measurement.accuracy:.1%} of {n_labelled} as a person gave them\n")
        rows = [("a person's", *SUBJECTS)]
        rows += [(own, *map(str, row.values())) for own, row in measurement.confusion.items()]
        print(lay_out(rows, n_left=1))
    return measurement


def measure_speed(documents: Sequence[Document], *, n_repeats: int) -> float:
    """Give MB of text judged in a second of one core."""
    generator = np.random.default_rng(0)
    scorer = Scorer(
        weights=generator.standard_normal((len(GROUPS), N_BUCKETS), dtype=np.float32),
        form=np.ones((3, len(FORMS))),
        intercept=0.0,
        low=0.0,
        high=1.0,
        training={},
    )
    texts = [(document.text, document.language) for document in documents]
    judge_texts(texts[:1], scorer=scorer)  # makes its tables
    seconds = []
    for _ in range(n_repeats):
        start = time.process_time()
        judge_texts(texts, scorer=scorer)
        seconds.append(time.process_time() - start)
    return sum(len(text.encode()) for text, _ in texts) / 1e6 / min(seconds)


def compare_subjects(documents: Sequence[Document], path: Path) -> Counter[tuple[str, str]]:
    """Count the labelled documents by the person's subject and ours."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    given = {(row["source"], row["id"]): row["subject"] for row in rows}
    pairs: Counter[tuple[str, str]] = Counter()
    for document in documents:
        subject = given.get((document.source, document.id))
        if subject is not None:
            statistics = TextStatistics(document.text[:READ_CHARACTERS])
            pairs[subject, SUBJECTS[find_subject(statistics, document.language)]] += 1
    if not pairs:
        raise DataError(f"subjects={path}: none of its documents is in the inputs")
    return pairs


if __name__ == "__main__":
    run_program(run, BenchmarkOptions, sys.argv[1:])
