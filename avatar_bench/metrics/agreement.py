"""Agreement of the predictions and errors of two classifiers.

The measures use two kinds of table: `predictions` (..., C, C) counts images by both predicted classes, `hits`
(..., 2, 2) by whether each classifier is incorrect (0) or correct (1). Both may be stacks, in counts or weights, so
that the same functions compute a measure and its resamples. Undefined values are NaN.
Kuncheva and Whitaker, Mach. Learn. 51 (2003) 181, define the measures of `hits`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avatar_bench.metrics.classification import accuracy, confusion_matrix
from avatar_bench.metrics.stats import ratio

Floats = NDArray[np.float64]
Integers = NDArray[np.integer]


def kappa(predictions: Floats) -> Floats:
    """Compute Cohen's kappa, (...), -1 to 1; NaN if both always predict the same single class.

    Cohen, Educ. Psychol. Meas. 20 (1960) 37.
    """
    total = predictions.sum(axis=(-2, -1))
    expected = ratio((predictions.sum(axis=-1) * predictions.sum(axis=-2)).sum(axis=-1), total**2)
    return ratio(accuracy(predictions) - expected, 1 - expected)


def disagreement(hits: Floats) -> Floats:
    """Compute the proportion of images that exactly one of the two classifies correctly, (...), 0 to 1."""
    return ratio(hits[..., 0, 1] + hits[..., 1, 0], hits.sum(axis=(-2, -1)))


def double_fault(hits: Floats) -> Floats:
    """Compute the proportion of images that both misclassify, (...), 0 to 1."""
    return ratio(hits[..., 0, 0], hits.sum(axis=(-2, -1)))


def q_statistic(hits: Floats) -> Floats:
    """Compute Yule's Q of correctness, (...), -1 to 1, 0 for independent errors.

    NaN if both products of opposite counts are 0, for example if one of the two is always correct.
    """
    same, apart = _products(hits)
    return ratio(same - apart, same + apart)


def error_correlation(hits: Floats) -> Floats:
    """Compute Pearson's correlation (phi) of the error indicators, (...); NaN if one of them is constant."""
    same, apart = _products(hits)
    margins = hits.sum(axis=-1).prod(axis=-1) * hits.sum(axis=-2).prod(axis=-1)
    return ratio(same - apart, np.sqrt(margins))


PREDICTION_MEASURES: dict[str, Callable[[Floats], Floats]] = {"agreement": accuracy, "kappa": kappa}
CORRECTNESS_MEASURES: dict[str, Callable[[Floats], Floats]] = {
    "disagreement": disagreement,
    "q_statistic": q_statistic,
    "double_fault": double_fault,
    "error_correlation": error_correlation,
}
MEASURES = (*PREDICTION_MEASURES, *CORRECTNESS_MEASURES)


def compute_measures(
    predicted: tuple[Integers, Integers], targets: Integers, classes: int, weights: ArrayLike | None = None
) -> Floats:
    """Compute the MEASURES of two classifiers from their predictions (N,): (6,), or (B, 6) for weights (B, N)."""
    predictions = confusion_matrix(*predicted, classes, weights)
    right, other = ((labels == targets).astype(np.int64) for labels in predicted)
    hits = confusion_matrix(right, other, 2, weights)
    parts = [measure(predictions) for measure in PREDICTION_MEASURES.values()]
    return np.stack([*parts, *(measure(hits) for measure in CORRECTNESS_MEASURES.values())], axis=-1)


def probability_correlation(ours: ArrayLike, theirs: ArrayLike) -> float:
    """Compute Pearson's correlation of two classifiers' probabilities (N,) of the true class.

    NaN if one of them is constant.
    """
    a, b = (values - values.mean() for values in np.asarray([ours, theirs], dtype=np.float64))
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread > 1e-12 else float("nan")


def _products(hits: Floats) -> tuple[Floats, Floats]:
    return hits[..., 0, 0] * hits[..., 1, 1], hits[..., 0, 1] * hits[..., 1, 0]
