"""The pipeline of `value`: a scorer, a score for each document, a threshold, files and a report.

The inputs are read two or three times: to choose what to train on, to score, and to write what is
kept. Scores lie in a file in between, so the memory does not grow with the input.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from data_tools.batches import choose_workers, map_batches, show_documents, text_and_language
from data_tools.clean.report import SAMPLE_CHARACTERS
from data_tools.documents import Document
from data_tools.readers.files import find_files, refuse_inputs_within
from data_tools.result_folder import (
    SourceFiles,
    check_source,
    new_folder,
    open_text,
    to_line,
)
from data_tools.value import DEFAULT_KEEP, ValueOptions
from data_tools.value.curve import HIGHEST, LOWEST, Curve, add_up
from data_tools.value.judge import Judgement, judge_texts
from data_tools.value.labels import (
    LabelledSample,
    hash_text,
    read_labels,
    sample_by_domains,
    sample_by_labels,
)
from data_tools.value.pictures import draw_curve, draw_profile
from data_tools.value.report import LOW_VALUE, SourceValue, ValueReport
from data_tools.value.scorer import Scorer, load_scorer, save_scorer
from data_tools.value.smallest import Smallest
from data_tools.value.subjects import SUBJECTS
from data_tools.value.training import train_scorer
from helix.data import DataError

JUDGEMENTS = "judgements.partial"  # int16 step and subject of each document, while it is worked
ROW = np.dtype([("step", "<i2"), ("subject", "<i2")])


def value(options: ValueOptions) -> ValueReport:
    """Score the inputs and write the better ones to `options.out`.

    Raises:
        DataError: An input, the labels or the scorer cannot be used, an input lies in the folder
            to write, or there is a result already.
    """
    refuse_inputs_within(options.out, find_files(options.inputs))
    with new_folder(options.out, replace=options.replace) as folder:
        scorer = make_scorer(options)
        scorer_hash = save_scorer(scorer, folder / "scorer.json")
        curves = score_documents(options, scorer, folder)
        steps = choose_steps(options, curves, scorer)
        writer = Writer(folder, scorer, steps, options.n_samples)
        writer.write_all(read_judged(options, folder))
        (folder / JUDGEMENTS).unlink()
        draw_curve(curves, steps, scorer, folder / "curve.png")
        draw_profile(writer.sources, folder / "profile.png")
        report = ValueReport(
            options=describe_options(options),
            scorer=scorer_hash,
            training=scorer.training,
            sources=writer.sources,
        )
        (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
    return report


def describe_options(options: ValueOptions) -> dict[str, object]:
    """Give the options that decide what is kept."""
    left_out = {"inputs", "out", "labels", "scorer", "n_workers", "replace", "json"}
    return {name: own for name, own in asdict(options).items() if name not in left_out}


def make_scorer(options: ValueOptions) -> Scorer:
    """Load a scorer, or train one."""
    if options.scorer:
        return load_scorer(Path(options.scorer))
    sample = choose_sample(options)
    return train_scorer(
        sample.examples,
        penalty=options.penalty,
        n_folds=options.n_folds,
        described=sample.described,
    )


def choose_sample(options: ValueOptions) -> LabelledSample:
    """Choose what to train on."""
    documents = show_documents(options, "choose what to train on")
    if options.labels:
        return sample_by_labels(
            read_labels(Path(options.labels)),
            documents,
            n_examples=options.n_examples,
            path=options.labels,
        )
    return sample_by_domains(documents, n_examples=options.n_examples)


def score_documents(options: ValueOptions, scorer: Scorer, folder: Path) -> dict[str, Curve]:
    """Judge every document, into a file; give the curve of each source."""
    curves: dict[str, Curve] = {}
    documents = show_documents(options, "score documents")
    n_workers = choose_workers(options.inputs, options.n_workers)
    judge = partial(judge_texts, scorer=scorer)
    with (folder / JUDGEMENTS).open("wb") as file:
        judged = map_batches(judge, documents, pick=text_and_language, n_workers=n_workers)
        for batch, judgements in judged:
            file.write(np.array(judgements, dtype=ROW).tobytes())
            for document, judgement in zip(batch, judgements, strict=True):
                if document.source not in curves:
                    curves[check_source(document.source)] = Curve()
                curves[document.source].add(judgement.step, len(document.text.encode()))
    return curves


def choose_steps(
    options: ValueOptions, curves: Mapping[str, Curve], scorer: Scorer
) -> dict[str, int]:
    """Choose the step that the documents of each source must reach."""
    keep = DEFAULT_KEEP if options.keep is None else options.keep
    if options.by_source:
        return {name: curve.choose_step(keep) for name, curve in curves.items()}
    if options.threshold is None:
        step = add_up(list(curves.values())).choose_step(keep)
    else:
        # the first step at or above it; beyond the last, nothing is kept
        exact = (options.threshold - scorer.low) / scorer.step
        step = int(np.ceil(min(max(exact - 1e-6, LOWEST), HIGHEST + 1)))
    return dict.fromkeys(curves, step)


def read_judged(options: ValueOptions, folder: Path) -> Iterator[tuple[Document, Judgement]]:
    """Yield the documents again, with what was found of them."""
    rows = np.memmap(folder / JUDGEMENTS, dtype=ROW, mode="r")
    number = -1
    for number, document in enumerate(show_documents(options, "write what is kept")):
        if number == len(rows):
            break
        yield document, Judgement(*rows[number].item())
    if number + 1 != len(rows):
        raise DataError("the inputs were changed while they were read; run it again")


@dataclass
class Samples:
    """Documents of one source for a person to look at, by why."""

    n: int
    by_reason: dict[str, Smallest[dict[str, object]]] = field(default_factory=dict)

    def offer(self, reason: str, key: tuple[object, ...], row: dict[str, object]) -> None:
        """Offer a document."""
        self.by_reason.setdefault(reason, Smallest(self.n)).offer(key, row)


class Writer:
    """Writes what is kept and what is dropped, counts all, and keeps samples."""

    def __init__(
        self, folder: Path, scorer: Scorer, steps: Mapping[str, int], n_samples: int
    ) -> None:
        self.folder = folder
        self.scorer = scorer
        self.steps = steps
        self.sources = {
            name: SourceValue(threshold=scorer.to_score(step)) for name, step in steps.items()
        }
        self.samples = {name: Samples(n_samples) for name in steps}

    def write_all(self, judged: Iterable[tuple[Document, Judgement]]) -> None:
        """Write all documents, and the samples."""
        with (
            SourceFiles(self.folder) as files,
            # not .jsonl: whoever gives the folder to the next verb means the documents
            open_text(self.folder / "dropped.ndjson") as dropped,
            open_text(self.folder / "scores.ndjson") as scores,
        ):
            for document, judgement in judged:
                if document.source not in self.steps:
                    raise DataError("the inputs were changed while they were read; run it again")
                is_kept = judgement.step >= self.steps[document.source]
                found = {
                    "score": self.scorer.to_score(judgement.step),
                    "subject": SUBJECTS[judgement.subject],
                }
                name = {"id": document.id, "source": document.source}
                scores.write(to_line({**name, **found, "is_kept": is_kept}))
                if is_kept:
                    files.write(document)
                else:
                    dropped.write(to_line({**asdict(document), **found, "reason": LOW_VALUE}))
                self.count(document, judgement, is_kept=is_kept)
        rows = [
            json.dumps(row, ensure_ascii=False)
            for source in sorted(self.samples)
            for _, chosen in sorted(self.samples[source].by_reason.items())
            for row in chosen.items()
        ]
        text = "[\n" + ",\n".join(rows) + "\n]\n"
        (self.folder / "samples.json").write_text(text, encoding="utf-8")

    def count(self, document: Document, judgement: Judgement, *, is_kept: bool) -> None:
        """Count a document and offer it as a sample."""
        subject = SUBJECTS[judgement.subject]
        n_bytes = len(document.text.encode())
        self.sources[document.source].add(n_bytes, subject, is_kept=is_kept)
        distance = abs(judgement.step - self.steps[document.source])
        key = hash_text(document.text), document.id
        keys: dict[str, tuple[object, ...]] = {}
        side = "kept_near_threshold" if is_kept else "dropped_near_threshold"
        keys[side] = (distance, *key)
        if not is_kept:
            keys["dropped"] = key
        for reason, own in keys.items():
            row: dict[str, object] = {
                "source": document.source,
                "reason": reason,
                "id": document.id,
                "score": self.scorer.to_score(judgement.step),
                "subject": subject,
                "text": document.text[:SAMPLE_CHARACTERS],
            }
            self.samples[document.source].offer(reason, own, row)
