"""Classification metrics from confusion matrices and scores.

Confusion matrices are stacks (..., C, C), targets by predictions, in counts or weights, so that the same functions
compute a metric and its resamples; the tests compare each with scikit-learn. Undefined values are NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avatar_bench.metrics.ratios import nan_mean, ratio

Floats = NDArray[np.float64]


def confusion_matrix(
    targets: NDArray[np.integer], predicted: NDArray[np.integer], classes: int, weights: ArrayLike | None = None
) -> Floats:
    """Count images by target (row) and prediction (column), (C, C); weights (B, N) give a stack (B, C, C)."""
    cells = np.zeros((len(targets), classes * classes))
    cells[np.arange(len(targets)), targets * classes + predicted] = 1.0
    weights = np.ones(len(targets)) if weights is None else np.asarray(weights, dtype=np.float64)
    table: Floats = weights @ cells
    return table.reshape(*weights.shape[:-1], classes, classes)


def accuracy(confusion: ArrayLike) -> Floats:
    """Compute the accuracy, (...), 0 to 1."""
    table = np.asarray(confusion, dtype=np.float64)
    return ratio(_correct_counts(table).sum(axis=-1), table.sum(axis=(-2, -1)))


def recall(confusion: ArrayLike) -> Floats:
    """Compute the recall of each class, (..., C); NaN for an absent class."""
    table = np.asarray(confusion, dtype=np.float64)
    return ratio(_correct_counts(table), table.sum(axis=-1))


def precision(confusion: ArrayLike) -> Floats:
    """Compute the precision of each class, (..., C).

    NaN for a class that is absent from the targets or never predicted.
    """
    table = np.asarray(confusion, dtype=np.float64)
    return np.where(_is_present(table), ratio(_correct_counts(table), table.sum(axis=-2)), np.nan)


def f1(confusion: ArrayLike) -> Floats:
    """Compute the F1 of each class, (..., C); NaN for an absent class, 0 for one never predicted."""
    table = np.asarray(confusion, dtype=np.float64)
    score = ratio(2 * _correct_counts(table), table.sum(axis=-1) + table.sum(axis=-2))
    return np.where(_is_present(table), score, np.nan)


def balanced_accuracy(confusion: ArrayLike) -> Floats:
    """Compute the mean recall over the classes that are present in the targets, (...)."""
    return nan_mean(recall(confusion), axis=-1)


def macro_precision(confusion: ArrayLike) -> Floats:
    """Compute the mean precision over the classes that are present in the targets, (...).

    A class that is never predicted counts as 0, as with scikit-learn's `zero_division=0`.
    """
    table = np.asarray(confusion, dtype=np.float64)
    return nan_mean(np.where(_is_present(table), np.nan_to_num(precision(table)), np.nan), axis=-1)


def macro_f1(confusion: ArrayLike) -> Floats:
    """Compute the mean F1 over the classes that are present in the targets, (...)."""
    return nan_mean(f1(confusion), axis=-1)


def mcc(confusion: ArrayLike) -> Floats:
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


def auroc(scores: ArrayLike, positive: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Compute the AUROC: the probability that a positive image scores above a negative one, ties counting half.

    `scores` and `positive` (bool) are (N,); the result is (), or (B,) for weights (B, N). NaN if one kind is absent.
    """
    score, mask = np.asarray(scores), np.asarray(positive, dtype=bool)
    weights = np.ones(len(score)) if weights is None else np.asarray(weights, dtype=np.float64)
    inside, outside = np.flatnonzero(mask), np.flatnonzero(~mask)
    outside = outside[np.argsort(score[outside])]
    below = np.zeros((*weights.shape[:-1], len(outside) + 1))
    np.cumsum(weights[..., outside], axis=-1, out=below[..., 1:])
    first = np.searchsorted(score[outside], score[inside], "left")
    last = np.searchsorted(score[outside], score[inside], "right")
    own = weights[..., inside]
    won = np.einsum("...i,...i->...", own, below[..., first]) + np.einsum("...i,...i->...", own, below[..., last])
    return ratio(won, 2 * own.sum(axis=-1) * below[..., -1])


def _correct_counts(table: Floats) -> Floats:
    return np.diagonal(table, axis1=-2, axis2=-1)


def _is_present(table: Floats) -> NDArray[np.bool_]:
    return np.asarray(table.sum(axis=-1) > 0)
