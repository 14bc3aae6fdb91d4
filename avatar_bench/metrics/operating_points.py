"""Operating points of a score: recall at a rate of false alarms, and precision at a recall."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from avatar_bench.metrics.detection import RocCurve
from avatar_bench.metrics.ratios import ratio

Floats = NDArray[np.float64]
Reals = NDArray[np.floating]
_ROUNDING = 1e-12


def compute_recall_at(curve: RocCurve, rate: float) -> Floats:
    """Compute the largest recall (...) at a false positive rate of at most `rate`; 0 if every threshold exceeds it.

    NaN where the curve has no positive or no negative image.
    """
    allowed = curve.false_positive_rate <= rate + _ROUNDING
    found = np.where(allowed, curve.recall, 0.0).max(axis=-1)
    return np.asarray(found + 0 * curve.false_positive_rate[..., 0] + 0 * curve.recall[..., 0])


def compute_precision_at(curve: RocCurve, recall: float) -> Floats:
    """Compute the precision (...) at the highest threshold with a recall of at least `recall`, above 0 to 1.

    The fraction of positive images is `curve.prevalence`, also in resamples.
    """
    first = (curve.recall >= recall - _ROUNDING).argmax(axis=-1)[..., None]
    found, alarms = (
        np.take_along_axis(rate, first, axis=-1)[..., 0]
        for rate in np.broadcast_arrays(curve.recall, curve.false_positive_rate)
    )
    hits = curve.prevalence * found
    return ratio(hits, hits + (1 - curve.prevalence) * alarms)


def find_threshold(scores: Reals, positive: NDArray[np.bool_], rate: float) -> float:
    """Return the lowest score (N,) of a positive image from which at most `rate` of the negative ones score.

    Infinite if there is none: the highest scores are those of negative images.
    """
    steps = np.unique(scores[positive])
    negative = np.sort(scores[~positive])
    alarms = 1 - np.searchsorted(negative, steps, "left") / len(negative)
    allowed = steps[alarms <= rate + _ROUNDING]
    return float(allowed[0]) if len(allowed) else math.inf
