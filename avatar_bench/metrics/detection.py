"""Metrics of out-of-distribution detection.

A higher score means that an image is more likely out of domain. Out-of-domain images are the positive ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avatar_bench.metrics.ratios import ratio
from avatar_bench.metrics.stats import OrderStatistic

Floats = NDArray[np.float64]
FPR_RECALL = 0.95


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


def roc(scores: ArrayLike, positive: ArrayLike, weights: ArrayLike | None = None) -> RocCurve:
    """Compute the ROC curve of scores (N,) for positive (N,) bool images; weights (B, N) return a stack of B curves."""
    score, mask = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    order, trace = _sort(score, mask)
    return trace((np.ones(len(score)) if weights is None else np.asarray(weights, dtype=np.float64))[..., order])


def build_roc_statistic(
    scores: ArrayLike, positive: ArrayLike, measures: Sequence[Callable[[RocCurve], Floats]]
) -> OrderStatistic:
    """Return K measures of the ROC curve, each a function to (B,), as a statistic (B, K)."""
    order, trace = _sort(np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool))

    def compute(weights: Floats) -> Floats:
        curve = trace(weights)
        return np.column_stack([measure(curve) for measure in measures])

    return OrderStatistic(order, compute)


def auroc(curve: RocCurve) -> Floats:
    """Compute the AUROC, (...): the probability that a positive image scores above a negative one, ties count half."""
    won = 1 - (curve.false_positive_rate + curve.rate_above) / 2
    return np.asarray((won * np.diff(curve.recall, axis=-1, prepend=0.0)).sum(axis=-1))


def aupr(curve: RocCurve) -> Floats:
    """Compute the average precision, (...), 0 to 1; the chance level is `curve.prevalence`.

    Precision depends on the prevalence of positive images, which stays fixed for all weights.
    """
    found = curve.prevalence * curve.recall
    flagged = found + (1 - curve.prevalence) * curve.false_positive_rate
    precision = np.divide(found, flagged, out=np.zeros_like(found), where=flagged != 0)
    return np.asarray((precision * np.diff(curve.recall, axis=-1, prepend=0.0)).sum(axis=-1))


def fpr95(curve: RocCurve) -> Floats:
    """Compute the false positive rate at 95 % recall, (...), 0 to 1.

    The threshold is the highest with a recall of 95 % or more.
    """
    first = (curve.recall >= FPR_RECALL - 1e-12).argmax(axis=-1)[..., None]  # 19 of 20 must pass in spite of rounding
    return np.asarray(np.take_along_axis(curve.false_positive_rate + 0 * curve.recall, first, axis=-1)[..., 0])


def _sort(scores: Floats, positive: NDArray[np.bool_]) -> tuple[NDArray[np.intp], Callable[[Floats], RocCurve]]:
    """Return the positive images, then the others, each by score, and the curve of weights (..., N) in this order."""
    inside, outside = (rows[np.argsort(scores[rows])] for rows in map(np.flatnonzero, (positive, ~positive)))
    steps = np.unique(scores[inside])[::-1] if len(inside) else np.array([np.inf])
    sides: tuple[Literal["left"], Literal["right"]] = ("left", "right")
    places = [[np.searchsorted(scores[rows], steps, side) for side in sides] for rows in (inside, outside)]
    prevalence = float(positive.mean())

    def trace(weights: Floats) -> RocCurve:
        parts = np.split(weights, [len(inside)], axis=-1)
        (recall, _), (rate, above) = (_fractions_above(part, at) for part, at in zip(parts, places, strict=True))
        return RocCurve(recall, rate, above, prevalence)

    return np.concatenate([inside, outside]), trace


def _fractions_above(weights: Floats, places: Sequence[NDArray[np.intp]]) -> tuple[Floats, ...]:
    """Compute the fractions of weights (..., N), by score, from each of some places (T,) on, (..., T)."""
    below = np.zeros((*weights.shape[:-1], weights.shape[-1] + 1))
    np.cumsum(weights, axis=-1, out=below[..., 1:])
    whole = below[..., -1:]
    return tuple(ratio(whole - below.take(each, axis=-1), whole) for each in places)
