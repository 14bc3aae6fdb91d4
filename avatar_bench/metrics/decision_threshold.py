"""Threshold of a score from which a class is predicted."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def fit_threshold(scores: ArrayLike, positive: ArrayLike) -> float:
    """Return the threshold of scores (N,) with the largest balanced accuracy for positive (N,) bool images.

    An image counts as positive from the threshold on. It is the middle of a gap between two neighbouring scores, of
    equally good gaps the widest, of equally wide ones the lowest. Raise ValueError if all scores are equal or if one
    kind of image is absent.
    """
    score, mask = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    steps = np.unique(score)
    if len(steps) < 2 or mask.all() or not mask.any():
        raise ValueError("a threshold needs two scores, and images of both kinds")
    middles = steps[:-1] + np.diff(steps) / 2
    accuracy = compute_balanced_accuracy(score, mask, middles)
    best = np.flatnonzero(accuracy >= accuracy.max() - 1e-12)
    return float(middles[best[np.diff(steps)[best].argmax()]])


def compute_balanced_accuracy(scores: ArrayLike, positive: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Compute the balanced accuracy, 0 to 1, of scores (N,) for positive (N,) bool images at thresholds (T,)."""
    score, mask = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    inside, outside = np.sort(score[mask]), np.sort(score[~mask])
    recall = 1 - np.searchsorted(inside, thresholds, "left") / len(inside)
    specificity = np.searchsorted(outside, thresholds, "left") / len(outside)
    return np.asarray((recall + specificity) / 2)
