"""Metrics of out-of-distribution detection.

A higher score means that an image is more likely out of domain. Out-of-domain images are the positive ones.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avatar_bench.metrics.ratios import ratio

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
    weight = np.ones(len(score)) if weights is None else np.asarray(weights, dtype=np.float64)
    steps = np.unique(score[mask])[::-1] if mask.any() else np.array([np.inf])
    recall, _ = _fractions_above(score[mask], weight[..., mask], steps)
    rate, above = _fractions_above(score[~mask], weight[..., ~mask], steps)
    return RocCurve(recall, rate, above, float(mask.mean()))


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


def _fractions_above(scores: Floats, weights: Floats, steps: Floats) -> tuple[Floats, Floats]:
    """Compute the weighted fractions of scores (N,) at or above, and above, each of steps (T,), both (..., T)."""
    order = np.argsort(scores)
    below = np.zeros((*weights.shape[:-1], len(scores) + 1))
    np.cumsum(weights[..., order], axis=-1, out=below[..., 1:])
    whole = below[..., -1:]
    sides: tuple[Literal["left"], Literal["right"]] = ("left", "right")
    left, right = (whole - below[..., np.searchsorted(scores[order], steps, side)] for side in sides)
    return ratio(left, whole), ratio(right, whole)
