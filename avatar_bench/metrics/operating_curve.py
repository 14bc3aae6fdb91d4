"""Outcomes of abstaining below each threshold of the confidence, and the precision that follows at a prevalence."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avatar_bench.metrics import selective, stats
from avatar_bench.metrics.stats import Floats

COVERAGE, ERROR = OF_ALL = ("coverage", "error")
RECALL, FALSE_ALARMS = OF_CLASS = ("recall", "false_alarms")
# denser towards 1, where confidences lie
_THRESHOLDS = [*np.arange(0, 85, 5) / 100, *np.arange(85, 99) / 100, *np.arange(990, 1000) / 1000, 0.9999, 1.0]
_ROUNDING = 1e-9  # of a rate times a number of units


def list_thresholds(classes: int) -> Floats:
    """Return thresholds of the confidence: 0, at which all is answered, and up to 1 those above 1/C, the least one."""
    return np.array([threshold for threshold in _THRESHOLDS if threshold == 0 or threshold > 1 / classes])


def mark_outcomes(
    confidence: NDArray[np.floating],
    predicted: ArrayLike,
    targets: ArrayLike,
    thresholds: Floats,
    measure: str,
    index: int,
) -> Floats:
    """Mark for a measure which images count at each threshold, (N, T): 1 for a hit, 0 for none, NaN for no interest.

    An image is answered if its confidence reaches the threshold, and called class `index` if that is predicted as well.
    "coverage" is the answered among all images, "error" the incorrect among the answered; "recall" the called among
    the images of the class, "false_alarms" the called among those of others.
    """
    prediction, target = np.asarray(predicted)[:, None], np.asarray(targets)[:, None]
    answered = confidence[:, None] >= thresholds
    if measure == COVERAGE:
        return answered.astype(np.float64)
    if measure == ERROR:
        return np.where(answered, prediction != target, np.nan)
    inside = (target == index) == (measure == RECALL)
    return np.where(inside, answered & (prediction == index), np.nan)


def raise_high_end(rate: float, high: float, units: int, level: float, is_by_source: bool) -> float:
    """Return the high end of a small rate: at least that of Clopper and Pearson, of as many units with an event.

    A bootstrap of few events ends too low. Rates of sources are no events: what some sources do that were not drawn is
    as much as if none had one, whatever the others do.
    """
    events = 0 if is_by_source else math.ceil(rate * units - _ROUNDING)
    return max(high, selective.upper_bound(events, units, (1 + level) / 2))


def compute_precision(recall: ArrayLike, false_alarms: ArrayLike, prevalence: float) -> Floats:
    """Compute the precision and both ends of its interval, (3, ...), of values and ends of recall and false alarms.

    Of images of which a fraction `prevalence` is of the class. If both intervals hold at 1 - a / 2, this one holds at
    1 - a (Bonferroni). NaN where nothing is called.
    """
    hits = prevalence * np.asarray(recall, dtype=np.float64)
    return stats.ratio(hits, hits + (1 - prevalence) * np.asarray(false_alarms, dtype=np.float64)[[0, 2, 1]])
