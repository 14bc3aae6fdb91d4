"""Scale of a detector's score, and its log-odds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

_LEAST = 1e-15  # probability
_LARGEST_LOG_ODDS = 20.0  # of an unbounded score: all of them stay distinct in 32 bits


@dataclass(frozen=True)
class ScoreScale:
    """Scale on which scores are probabilities of a class, or its log-odds divided by `factor`."""

    is_probability: bool = False
    factor: float = 1.0

    @classmethod
    def of(cls, scores: NDArray[np.float64], threshold: float | None) -> ScoreScale:
        """Return the scale of scores (N,): those from 0 to 1 count as probabilities, large ones are divided."""
        if scores.min() >= 0 and scores.max() <= 1:
            return cls(is_probability=True)
        largest = float(np.abs(scores - (threshold or 0.0)).max())
        return cls(factor=min(1.0, _LARGEST_LOG_ODDS / max(largest, 1e-300)))

    @property
    def middle(self) -> float:
        """Return the score whose probability is 1/2."""
        return 0.5 if self.is_probability else 0.0

    def to_log_odds(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return the log-odds of scores."""
        values = np.asarray(scores, dtype=np.float64)
        return np.asarray(logit(np.clip(values, _LEAST, 1 - _LEAST)) if self.is_probability else values * self.factor)

    def to_scores(self, log_odds: ArrayLike) -> NDArray[np.float64]:
        """Return the scores of log-odds."""
        values = np.asarray(log_odds, dtype=np.float64)
        return np.asarray(expit(values) if self.is_probability else values / self.factor)

    def shift(self, scores: ArrayLike, threshold: float | None) -> NDArray[np.float64]:
        """Return the log-odds of scores, 0 at the threshold; without one, at the middle of the scale."""
        return np.asarray(self.to_log_odds(scores) - self.to_log_odds(self.middle if threshold is None else threshold))
