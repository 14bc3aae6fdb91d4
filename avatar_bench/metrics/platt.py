"""Platt scaling of a score: its probability of a class by slope and intercept, on a robust scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from avatar_bench.metrics.calibration import TEMPERATURE_RANGE

_FAR_OUT = 3.0  # interquartile ranges from a quartile to its fence; Tukey, Exploratory Data Analysis (1977)


class PlattScaling(NamedTuple):
    """Log-odds `slope` * score + `intercept`; `steepness` is the slope for an interquartile range of the scores."""

    slope: float
    intercept: float
    steepness: float


def fit_platt(scores: ArrayLike, positive: ArrayLike) -> PlattScaling:
    """Fit the scaling of scores (N,) with the largest likelihood of which images are positive, (N,) bool.

    Outliers count as scores at the fences. The steepness has the range of 1 / temperature, so that it ends there where
    all images are separated, or where higher scores are no likelier positive. Raise ValueError if all scores are equal
    or if one kind of image is absent. Platt, Advances in Large Margin Classifiers (1999) 61.
    """
    score, mask = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if len(np.unique(score)) < 2 or mask.all() or not mask.any():
        raise ValueError("a scaling needs two scores, and images of both kinds")
    from scipy.optimize import minimize  # imported here, since predicting does not need it

    middle, quarters = np.median(score), np.quantile(score, [0.25, 0.75])
    unit = float(quarters[1] - quarters[0]) or float(score.std())
    scaled = (np.clip(score, *find_fences(score)) - middle) / unit

    def compute_loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_odds = parameters[0] * scaled + parameters[1]
        losses, gaps = np.logaddexp(0, log_odds) - mask * log_odds, expit(log_odds) - mask
        return float(losses.mean()), np.array([(gaps * scaled).mean(), gaps.mean()])

    least, most = TEMPERATURE_RANGE
    steepness, level = minimize(
        compute_loss,
        np.array([1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(1 / most, 1 / least), (None, None)],
        options={"ftol": 1e-15, "gtol": 1e-9},
    ).x
    return PlattScaling(float(steepness / unit), float(level - steepness * middle / unit), float(steepness))


def find_fences(scores: ArrayLike) -> tuple[float, float]:
    """Return the ends beyond which scores are outliers; the least and the largest if half of all are equal."""
    score = np.asarray(scores, dtype=np.float64)
    low, high = np.quantile(score, [0.25, 0.75])
    if low == high:
        return float(score.min()), float(score.max())
    return float(low - _FAR_OUT * (high - low)), float(high + _FAR_OUT * (high - low))


def compute_balanced_accuracy(scores: ArrayLike, positive: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Compute the balanced accuracy, 0 to 1, of scores (N,) for positive (N,) bool images at thresholds (T,)."""
    score, mask = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    inside, outside = np.sort(score[mask]), np.sort(score[~mask])
    recall = 1 - np.searchsorted(inside, thresholds, "left") / len(inside)
    specificity = np.searchsorted(outside, thresholds, "left") / len(outside)
    return np.asarray((recall + specificity) / 2)
