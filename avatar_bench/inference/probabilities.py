"""Probabilities and scores that others have computed, on one scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from avatar_bench.metrics.calibration import find_fences

MAX_SUM_ERROR = 1e-3  # of the probabilities of an image, which are then divided by their sum
_LEAST = 1e-15  # probability
_LARGEST_LOG_ODDS = 20.0  # of an unbounded score that is no outlier: all of them stay distinct in 32 bits


class ImproperError(ValueError):
    """Rows that are no probabilities: the number of them, the position of the first and its sum."""

    def __init__(self, n: int, row: int, total: float) -> None:
        super().__init__(f"{n} rows are no probabilities, first row {row}, whose sum is {total:.6g}")
        self.n, self.row, self.total = n, row, total


def normalise_rows(values: ArrayLike) -> NDArray[np.float64]:
    """Divide each row of probabilities (N, C) by its sum.

    Raise ImproperError if one has a number below 0 or none, or a sum that is not 1 within MAX_SUM_ERROR.
    """
    rows = np.asarray(values, dtype=np.float64)
    sums = rows.sum(axis=1)
    bad = np.flatnonzero((rows < 0).any(axis=1) | ~(np.abs(sums - 1) <= MAX_SUM_ERROR))
    if len(bad):
        raise ImproperError(len(bad), int(bad[0]), float(sums[bad[0]]))
    return np.asarray(rows / sums[:, None])


def compute_logarithms(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithms of probabilities, finite also for 0."""
    return np.asarray(np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)))


@dataclass(frozen=True)
class ScoreScale:
    """Scale on which scores are probabilities of a class, or its log-odds divided by `factor`.

    Of log-odds beyond 20, as outliers have, the logarithm counts, so that they keep their order.
    """

    is_probability: bool = False
    factor: float = 1.0

    @classmethod
    def of(cls, scores: NDArray[np.float64], threshold: float | None) -> ScoreScale:
        """Return the scale of scores (N,): those from 0 to 1 count as probabilities, large ones are divided."""
        if scores.min() >= 0 and scores.max() <= 1:
            return cls(is_probability=True)
        low, high = find_fences(scores)
        usual = scores[(scores >= low) & (scores <= high)]
        largest = float(np.abs(usual - (threshold or 0.0)).max())
        return cls(factor=min(1.0, _LARGEST_LOG_ODDS / max(largest, 1e-300)))

    def to_log_odds(self, scores: ArrayLike, threshold: float | None) -> NDArray[np.float64]:
        """Return the log-odds of scores, 0 at the threshold; without one, at a probability of 1/2 or a score of 0."""
        values = np.asarray(scores, dtype=np.float64)
        if self.is_probability:
            shifted = _compute_logit(values) - (0.0 if threshold is None else _compute_logit(threshold))
            return np.asarray(shifted)
        return _compress((values - (threshold or 0.0)) * self.factor)

    def to_probabilities(self, scores: ArrayLike, threshold: float | None) -> NDArray[np.float64]:
        """Return the probabilities (N, 2) of the class and of the other one, 1/2 where the log-odds are 0."""
        log_odds = self.to_log_odds(scores, threshold)
        return np.column_stack([expit(log_odds), expit(-log_odds)])

    def to_score(self, log_odds: float, threshold: float | None) -> float:
        """Return the score of log-odds that are 0 at the threshold."""
        if self.is_probability:
            return float(expit(log_odds + (0.0 if threshold is None else _compute_logit(threshold))))
        beyond = np.expm1(max(0.0, abs(log_odds) - _LARGEST_LOG_ODDS))
        size = min(abs(log_odds), _LARGEST_LOG_ODDS) + beyond
        return float(np.sign(log_odds) * size / self.factor + (threshold or 0.0))


def _compute_logit(probabilities: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(logit(np.clip(probabilities, _LEAST, 1 - _LEAST)))


def _compress(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log-odds, of which the logarithm counts beyond the largest."""
    beyond = np.log1p(np.maximum(0.0, np.abs(log_odds) - _LARGEST_LOG_ODDS))
    return np.asarray(np.sign(log_odds) * (np.minimum(np.abs(log_odds), _LARGEST_LOG_ODDS) + beyond))
