"""Metrics and operating points of a score that detects positive images, such as those out of domain.

A higher score means that an image is more likely positive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avatar_bench.metrics.stats import OrderStatistic, ratio

Floats = NDArray[np.float64]
Reals = NDArray[np.floating]
FPR_RECALL = 0.95
_ROUNDING = 1e-12  # 19 of 20 must pass as 95 % in spite of it


class RocCurve(NamedTuple):
    """ROC curve at each distinct score of a positive image, highest first, or a stack of curves, (..., T).

    `recall` is the fraction of positive images at or above the score, `false_positive_rate` that of the negative ones,
    `rate_above` that of the negative ones strictly above it, 0 to 1; NaN without images. `prevalence` is the fraction
    of positive images.
    """

    recall: Floats
    false_positive_rate: Floats
    rate_above: Floats
    prevalence: float


def build_roc_statistic(
    scores: ArrayLike, positive: ArrayLike, measures: Sequence[Callable[[RocCurve], Floats]]
) -> OrderStatistic:
    """Return K measures of the ROC curve, each a function to (B,), as a statistic (B, K)."""
    score, mask = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    inside, outside = (rows[np.argsort(score[rows])] for rows in map(np.flatnonzero, (mask, ~mask)))
    steps = np.unique(score[inside])[::-1] if len(inside) else np.array([np.inf])
    hits = [np.searchsorted(score[inside], steps, "left")]
    alarms = [np.searchsorted(score[outside], steps, "left"), np.searchsorted(score[outside], steps, "right")]
    prevalence = float(mask.mean())

    def compute(weights: Floats) -> Floats:
        positives, negatives = np.split(weights, [len(inside)], axis=-1)
        (recall,), (rate, above) = _fractions_above(positives, hits), _fractions_above(negatives, alarms)
        curve = RocCurve(recall, rate, above, prevalence)
        return np.column_stack([measure(curve) for measure in measures])

    return OrderStatistic(np.concatenate([inside, outside]), compute)


def auroc(curve: RocCurve) -> Floats:
    """Compute the AUROC, (...): the probability that a positive image scores above a negative one, ties count half."""
    won = 1 - (curve.false_positive_rate + curve.rate_above) / 2
    return np.asarray((won * np.diff(curve.recall, axis=-1, prepend=0.0)).sum(axis=-1))


def aupr(curve: RocCurve) -> Floats:
    """Compute the average precision, (...), 0 to 1; the chance level is `curve.prevalence`.

    Precision depends on the prevalence of positive images, which stays fixed for all weights.
    """
    hits = curve.prevalence * curve.recall
    flagged = hits + (1 - curve.prevalence) * curve.false_positive_rate
    precision = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged != 0)
    return np.asarray((precision * np.diff(curve.recall, axis=-1, prepend=0.0)).sum(axis=-1))


def fpr95(curve: RocCurve) -> Floats:
    """Compute the false positive rate at 95 % recall, (...), 0 to 1.

    The threshold is the highest with a recall of 95 % or more.
    """
    return _find_point(curve, FPR_RECALL)[1]


def compute_recall_at(curve: RocCurve, rate: float) -> Floats:
    """Compute the largest recall (...) at a false positive rate of at most `rate`; 0 if every threshold exceeds it.

    NaN where the curve has no positive or no negative image.
    """
    allowed = curve.false_positive_rate <= rate + _ROUNDING
    largest = np.where(allowed, curve.recall, 0.0).max(axis=-1)
    return np.asarray(largest + 0 * curve.false_positive_rate[..., 0] + 0 * curve.recall[..., 0])


def compute_precision_at(curve: RocCurve, recall: float) -> Floats:
    """Compute the precision (...) at the highest threshold with a recall of at least `recall`, above 0 to 1.

    The fraction of positive images is `curve.prevalence`, also in resamples.
    """
    reached, alarms = _find_point(curve, recall)
    hits = curve.prevalence * reached
    return ratio(hits, hits + (1 - curve.prevalence) * alarms)


def find_threshold(scores: Reals, positive: NDArray[np.bool_], rate: float, weights: Floats | None = None) -> float:
    """Return the lowest score (N,) of a positive image from which at most `rate` of the negative ones score.

    Images have `weights` (N,), by default equal ones. Infinite if there is none: the highest scores are those of
    negative images.
    """
    steps, negative = np.unique(scores[positive]), np.flatnonzero(~positive)
    order = negative[np.argsort(scores[negative])]
    weight = np.ones(len(scores)) if weights is None else weights
    below = np.append(0.0, np.cumsum(weight[order]))
    alarms = 1 - below[np.searchsorted(scores[order], steps, "left")] / below[-1]
    allowed = steps[alarms <= rate + _ROUNDING]
    return float(allowed[0]) if len(allowed) else math.inf


def _find_point(curve: RocCurve, recall: float) -> tuple[Floats, Floats]:
    """Return recall and false positive rate (...) at the highest threshold with a recall of at least `recall`."""
    first = (curve.recall >= recall - _ROUNDING).argmax(axis=-1)[..., None]
    rates = curve.recall + 0 * curve.false_positive_rate, curve.false_positive_rate + 0 * curve.recall  # NaN spreads
    recalls, alarms = (np.take_along_axis(rate, first, axis=-1)[..., 0] for rate in rates)
    return recalls, alarms


def _fractions_above(weights: Floats, places: Sequence[NDArray[np.intp]]) -> tuple[Floats, ...]:
    """Compute the fractions of weights (..., N), by score, from each of some places (T,) on, (..., T)."""
    below = np.zeros((*weights.shape[:-1], weights.shape[-1] + 1))
    np.cumsum(weights, axis=-1, out=below[..., 1:])
    whole = below[..., -1:]
    return tuple(ratio(whole - below.take(starts, axis=-1), whole) for starts in places)
