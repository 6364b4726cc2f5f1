"""Clean, stage 2: the value of documents. `helix data value`; `python -m data_tools.value`.

    labels -> scorer, with what it cannot foretell -> a score for each document -> threshold

This module imports no library that is slow to load, for each worker process loads it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_tools.text_options import TextOptions

if TYPE_CHECKING:
    from data_tools.value.report import ValueReport

DEFAULT_KEEP = 0.8


@dataclass(frozen=True, kw_only=True)
class ValueOptions(TextOptions):
    """Options of `value`.

    Writes out/SOURCE.jsonl with the documents that were kept, dropped.ndjson and scores.ndjson,
    samples.json with documents for a person to look at, scorer.json and .npz, report.json, and the
    pictures curve.png and profile.png. The same input gives the same bytes.

    Without labels and scorer, the documents' own domains are the labels: the score then tells
    whether a text reads like running, explaining prose rather than like a list of glosses. It does
    not tell whether a text is true, new or worth knowing.

    Attributes:
        out: Folder to write.
        labels: .jsonl file of rows {"id", "source", "score"} or {"text", "score"}; any numbers.
        scorer: scorer.json of an earlier run, instead of training one.
        keep: Share of the bytes to keep; 0.8 where no threshold is given either.
        threshold: Score that a document must reach, in units of the labels.
        by_source: Keep the share `keep` of each source, with a threshold of its own.
        penalty: Of the ridge regression: more is smoother.
        n_examples: Labelled documents to train on at the most; a fair sample of more.
        n_folds: Parts of the cross-validation.
        n_samples: Documents to look at for each source and reason.
        n_workers: Processes; 0 takes all cores for a large input.
        replace: Replace a result that is there.
        json: Print the report as JSON.
    """

    out: str
    labels: str = ""
    scorer: str = ""
    keep: float | None = None
    threshold: float | None = None
    by_source: bool = False
    penalty: float = 10.0
    n_examples: int = 2000
    n_folds: int = 5
    n_samples: int = 5
    n_workers: int = 0
    replace: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels and self.scorer:
            raise ValueError(f"scorer={self.scorer}: is trained already; leave out labels=")
        if self.threshold is not None and (self.keep is not None or self.by_source):
            raise ValueError(
                f"threshold={self.threshold}: decides alone; leave out keep= and by_source="
            )
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep}: give a share above 0, at most 1")
        if not self.penalty > 0:
            raise ValueError(f"penalty={self.penalty}: give more than 0")
        lowest = {"n_folds": 2, "n_examples": 20, "n_samples": 0, "n_workers": 0}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: give at least {least}")


def run(options: ValueOptions) -> "ValueReport":
    """Score a person's own files, keep the better ones, and print what was found."""
    from data_tools.value.pipeline import value

    report = value(options)
    print(report.to_json() if options.json else report.to_table())
    return report
