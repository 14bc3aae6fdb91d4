"""Classification metrics from confusion matrices and scores.

Confusion matrices are stacks (..., C, C), targets by predictions, in counts or weights, so that the same functions
compute a metric and its resamples; the tests compare each with scikit-learn. Undefined values are NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avatar_bench.metrics.stats import JoinedStatistic, OrderStatistic, SumStatistic, nan_mean, ratio

Floats = NDArray[np.float64]


def confusion_matrix(
    targets: NDArray[np.integer], predicted: NDArray[np.integer], classes: int, weights: ArrayLike | None = None
) -> Floats:
    """Count images by target (row) and prediction (column), (C, C); weights (B, N) give a stack (B, C, C)."""
    weights = np.ones(len(targets)) if weights is None else np.asarray(weights, dtype=np.float64)
    return build_confusion_statistic([(targets, predicted)], classes, lambda tables: tables[..., 0, :, :])(weights)


def build_confusion_statistic(
    pairs: Sequence[tuple[NDArray[np.integer], NDArray[np.integer]]], classes: int, metric: Callable[[Floats], Floats]
) -> SumStatistic:
    """Return a metric of the confusion matrices (B, P, C, C) of P pairs of targets and predictions, (N,) each."""
    cells = np.zeros((len(pairs[0][0]), len(pairs), classes * classes), dtype=np.bool_)
    for pair, (targets, predicted) in enumerate(pairs):
        cells[np.arange(len(targets)), pair, targets * classes + predicted] = True
    tables = (len(pairs), classes, classes)
    return SumStatistic(
        cells.reshape(len(cells), len(pairs) * classes**2), lambda sums: metric(sums.reshape(*sums.shape[:-1], *tables))
    )


def accuracy(confusion: Floats) -> Floats:
    """Compute the accuracy, (...), 0 to 1."""
    return ratio(_correct_counts(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def recall(confusion: Floats) -> Floats:
    """Compute the recall of each class, (..., C); NaN for an absent class."""
    return ratio(_correct_counts(confusion), confusion.sum(axis=-1))


def precision(confusion: Floats) -> Floats:
    """Compute the precision of each class, (..., C).

    NaN for a class that is absent from the targets or never predicted.
    """
    return np.where(_is_present(confusion), ratio(_correct_counts(confusion), confusion.sum(axis=-2)), np.nan)


def f1(confusion: Floats) -> Floats:
    """Compute the F1 of each class, (..., C); NaN for an absent class, 0 for one never predicted."""
    score = ratio(2 * _correct_counts(confusion), confusion.sum(axis=-1) + confusion.sum(axis=-2))
    return np.where(_is_present(confusion), score, np.nan)


def balanced_accuracy(confusion: Floats) -> Floats:
    """Compute the mean recall over the classes that are present in the targets, (...)."""
    return nan_mean(recall(confusion), axis=-1)


def macro_precision(confusion: Floats) -> Floats:
    """Compute the mean precision over the classes that are present in the targets, (...).

    A class that is never predicted counts as 0, as with scikit-learn's `zero_division=0`.
    """
    return nan_mean(np.where(_is_present(confusion), np.nan_to_num(precision(confusion)), np.nan), axis=-1)


def macro_f1(confusion: Floats) -> Floats:
    """Compute the mean F1 over the classes that are present in the targets, (...)."""
    return nan_mean(f1(confusion), axis=-1)


def mcc(confusion: Floats) -> Floats:
    """Compute Matthews' correlation coefficient, (...), -1 to 1.

    0 if all predictions are one class, NaN if all targets are. Gorodkin, Comput. Biol. Chem. 28 (2004) 367.
    """
    table = np.asarray(confusion, dtype=np.float64)
    target, predicted = table.sum(axis=-1), table.sum(axis=-2)
    total = table.sum(axis=(-2, -1))
    covariance = _correct_counts(table).sum(axis=-1) * total - (target * predicted).sum(axis=-1)
    spread_target = total**2 - (target**2).sum(axis=-1)
    spread_predicted = total**2 - (predicted**2).sum(axis=-1)
    score = np.where(spread_predicted > 0, ratio(covariance, np.sqrt(spread_target * spread_predicted)), 0.0)
    return np.where(spread_target > 0, score, np.nan)


def prediction_shifts(before: Floats, after: Floats) -> Floats:
    """Compute the change of each prediction's frequency in class k when class k is transformed, (..., C, C), -1 to 1.

    If only class k is transformed, the predictions of the others do not change; so a single pass over all transformed
    images covers every class, and row k is the effect of transforming class k.
    `before` and `after` (..., C, C) count the same images, targets by predictions. Rows sum to 0; those of absent
    classes are NaN.
    """
    return ratio(after - before, before.sum(axis=-1, keepdims=True))


def bias(moved: Floats) -> Floats:
    """Compute the mean shift to each predicted class over the present classes, each transformed alone, (..., C).

    Above 0 the network takes the transformation for a sign of the class; at 0 as many images leave the class as join
    it. The values sum to 0. NaN if fewer than two classes are present.
    """
    present = (~np.isnan(moved).any(axis=-1)).sum(axis=-1)[..., None]
    mean = np.nansum(moved, axis=-2) / np.maximum(present, 1)
    return np.where(present >= 2, mean, np.nan)


def fragility(moved: Floats) -> Floats:
    """Compute the recall that each class loses when only it is transformed, (..., C), -1 to 1; NaN if absent."""
    return np.asarray(0.0 - _correct_counts(moved))


def build_auroc_statistic(scores: ArrayLike, positive: ArrayLike) -> OrderStatistic:
    """Return the AUROC as a statistic (B,): the probability that a positive image scores above a negative one.

    Ties count half. `scores` and `positive` (bool) are (N,). NaN if one kind is absent.
    """
    score, mask = np.asarray(scores), np.asarray(positive, dtype=bool)
    inside, outside = (rows[np.argsort(score[rows])] for rows in (np.flatnonzero(mask), np.flatnonzero(~mask)))
    first = np.searchsorted(score[outside], score[inside], "left")
    last = np.searchsorted(score[outside], score[inside], "right")

    def compute(weights: Floats) -> Floats:
        positives, below = weights[:, : len(inside)], np.zeros((len(weights), len(outside) + 1))
        np.cumsum(weights[:, len(inside) :], axis=1, out=below[:, 1:])
        won = (positives * (below.take(first, axis=1) + below.take(last, axis=1))).sum(axis=1)
        return np.minimum(ratio(won, 2 * positives.sum(axis=1) * below[:, -1]), 1)  # above it by rounding of weights

    return OrderStatistic(np.concatenate([inside, outside]), compute)


def build_metrics_statistic(
    targets: NDArray[np.integer],
    predicted: NDArray[np.integer],
    scores: Floats,
    metrics: Sequence[Callable[[Floats], Floats]],
) -> JoinedStatistic:
    """Return metrics of the confusion matrix, then the AUROC of each class against the others, from scores (N, C)."""

    def measure(confusion: Floats) -> Floats:
        return np.column_stack([metric(confusion[:, 0]) for metric in metrics])

    counted = build_confusion_statistic([(targets, predicted)], scores.shape[1], measure)
    return JoinedStatistic([counted, *build_auroc_statistics(scores, targets)])


def build_auroc_statistics(scores: Floats, targets: NDArray[np.integer]) -> list[OrderStatistic]:
    """Return the AUROC of each class against the others, from scores (N, C), as statistics."""
    return [build_auroc_statistic(column, targets == index) for index, column in enumerate(scores.T)]


MACRO_METRICS: dict[str, Callable[[Floats], Floats]] = {  # one value over all classes, besides the accuracy
    "balanced_accuracy": balanced_accuracy,
    "macro_precision": macro_precision,
    "macro_f1": macro_f1,
    "mcc": mcc,
}


def _correct_counts(table: Floats) -> Floats:
    return np.diagonal(table, axis1=-2, axis2=-1)


def _is_present(table: Floats) -> NDArray[np.bool_]:
    return np.asarray(table.sum(axis=-1) > 0)
