"""Training a scorer, and telling how well it does on texts that it has not seen."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.clean.extras import import_extra
from data_tools.clean.statistics import TextStatistics
from data_tools.value.features import GROUPS, N_BUCKETS, READ_CHARACTERS, Features, read_features
from data_tools.value.folds import assign_folds
from data_tools.value.labels import Example
from data_tools.value.scorer import Scorer, standardise
from helix.data import DataError

MIN_EXAMPLES = 20
RARE = 1e-4  # of 1e-4 and 1e-5 the better on the reference corpus: a rare bucket weighs no more
MIN_DEVIATION = 1e-6  # of a form that is the same in all texts
FORM_SCALE = 0.3  # of 0.3 and 1 the better: ten forms must not outweigh 200,000 buckets


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How well scores foretell the labels of texts that were left out of the training.

    Attributes:
        n_folds: Parts, each left out once.
        r2: Share of the labels' variance that is explained; 0 for always saying their mean.
        spearman: Rank correlation, -1 to 1.
        mean_absolute_error: In units of the labels.
        baseline_error: The same for always saying the mean of the labels trained on.
    """

    n_folds: int
    r2: float
    spearman: float
    mean_absolute_error: float
    baseline_error: float


class Design:
    """The features of all examples as a sparse matrix, one row each."""

    def __init__(self, examples: Sequence[Example]) -> None:
        sparse = import_extra("scipy.sparse", needed_for="training a scorer")
        features = [
            read_features(TextStatistics(example.text[:READ_CHARACTERS])) for example in examples
        ]
        rows = [count_buckets(own) for own in features]
        indptr = np.cumsum([0, *(len(columns) for columns, _ in rows)])
        self.frequencies: Any = sparse.csr_matrix(
            (
                np.concatenate([values for _, values in rows]),
                np.concatenate([columns for columns, _ in rows]),
                indptr,
            ),
            shape=(len(rows), len(GROUPS) * N_BUCKETS),
        )
        self.form = np.array([own.form for own in features])
        self.scores = np.array([example.score for example in examples], dtype=np.float64)

    def fit(self, rows: NDArray[np.intp], *, penalty: float, training: Mapping[str, Any]) -> Scorer:
        """Train on some of the rows."""
        sparse = import_extra("scipy.sparse", needed_for="training a scorer")
        linear_model = import_extra("sklearn.linear_model", needed_for="training a scorer")
        own = self.frequencies[rows]
        means = np.asarray(own.mean(axis=0)).ravel()
        present = np.flatnonzero(means)
        own, means = own[:, present], means[present]
        scales = (1 / np.sqrt(np.maximum(means, RARE))).astype(np.float32)
        deviations = np.maximum(self.form[rows].std(axis=0), MIN_DEVIATION)
        moments = np.stack([self.form[rows].mean(axis=0), deviations, np.zeros(len(deviations))])
        form = FORM_SCALE * standardise(self.form[rows], moments)
        matrix = sparse.hstack([own @ sparse.diags(scales), sparse.csr_matrix(form)]).tocsr()
        # lsqr and no other: "auto" may choose a solver that draws at random
        ridge = linear_model.Ridge(alpha=penalty, solver="lsqr", tol=1e-4, max_iter=300)
        ridge.fit(matrix.astype(np.float64), self.scores[rows])
        weights = np.zeros(len(GROUPS) * N_BUCKETS, dtype=np.float32)
        weights[present] = ridge.coef_[: len(scales)] * scales
        moments[2] = FORM_SCALE * ridge.coef_[len(scales) :]
        return Scorer(
            weights=weights.reshape(len(GROUPS), N_BUCKETS),
            form=moments,
            intercept=float(ridge.intercept_),
            low=float(self.scores.min()),
            high=float(self.scores.max()),
            training=training,
        )

    def predict(self, scorer: Scorer, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Score some of the rows, within the labels' range."""
        linear = self.frequencies[rows] @ scorer.weights.ravel().astype(np.float64)
        form = standardise(self.form[rows], scorer.form) @ scorer.form[2]
        return np.clip(scorer.intercept + linear + form, scorer.low, scorer.high)

    def validate(self, folds: NDArray[np.intp], *, penalty: float) -> Validation:
        """Leave each fold out once."""
        stats = import_extra("scipy.stats", needed_for="training a scorer")
        predicted, baseline = np.empty_like(self.scores), np.empty_like(self.scores)
        present = np.unique(folds)
        for fold in present:
            seen, left_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            scorer = self.fit(seen, penalty=penalty, training={})
            predicted[left_out] = self.predict(scorer, left_out)
            baseline[left_out] = self.scores[seen].mean()
        errors = self.scores - predicted
        is_constant = len(np.unique(predicted)) == 1
        return Validation(
            n_folds=len(present),
            r2=round(float(1 - (errors**2).mean() / self.scores.var()), 6),
            spearman=0.0
            if is_constant
            else round(float(stats.spearmanr(self.scores, predicted).statistic), 6),
            mean_absolute_error=round(float(np.abs(errors).mean()), 6),
            baseline_error=round(float(np.abs(self.scores - baseline).mean()), 6),
        )


def count_buckets(features: Features) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Give the columns of a row that are not 0, and the frequencies there."""
    columns, values = [], []
    for group, buckets in enumerate(features.buckets):
        own, counts = np.unique(buckets, return_counts=True)
        columns.append((own + group * N_BUCKETS).astype(np.int32))
        values.append((counts / max(len(buckets), 1)).astype(np.float32))
    return np.concatenate(columns), np.concatenate(values)


def train_scorer(
    examples: Sequence[Example], *, penalty: float, n_folds: int, described: Mapping[str, Any]
) -> Scorer:
    """Train on all examples; the scorer's `training` tells how well it does on those left out.

    Args:
        described: Where the labels are from, for the scorer's `training`.

    Raises:
        DataError: There are too few examples, or they all have one score.
    """
    if len(examples) < MIN_EXAMPLES:
        raise DataError(
            f"{len(examples)} labelled documents: a scorer needs {MIN_EXAMPLES} at the least, and "
            "a few hundred to be of use; label more"
        )
    if len({example.score for example in examples}) == 1:
        raise DataError(
            f"all {len(examples)} labelled documents have the score {examples[0].score}: there is "
            "nothing to learn; label better and worse ones"
        )
    design = Design(examples)
    training = {**described, "n_examples": len(examples), "penalty": penalty}
    for name, is_by_source in (("held_out_documents", False), ("held_out_sources", True)):
        folds = assign_folds(examples, n_folds=n_folds, by_source=is_by_source)
        is_trainable = all(
            len(np.unique(design.scores[folds != fold])) > 1 for fold in np.unique(folds)
        )
        if len(np.unique(folds)) > 1 and is_trainable:
            training[name] = asdict(design.validate(folds, penalty=penalty))
        else:
            training[name] = None
    return design.fit(np.arange(len(examples)), penalty=penalty, training=training)
