"""Guessing level of the balanced accuracy, and the test whether a predictor exceeds it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from avatar_bench.metrics import stats


def guessing_level(targets: ArrayLike) -> float | None:
    """Return the expected balanced accuracy of predictions made without the image: 1 over the number of classes.

    Such predictions, constant or random, predict class c with a probability p_c that does not depend on the true class.
    Their recalls are p_c, whose mean over the C classes present in `targets` (N,) is at most 1/C. None if fewer than
    two classes are present.
    """
    present = len(np.unique(np.asarray(targets)))
    return 1 / present if present > 1 else None


def beats_guessing(
    value: float, low: float | None, units: int, guessing: float | None, level: float = 0.95
) -> bool | None:
    """Return whether the interval of a balanced accuracy lies above the guessing level; None without a level.

    `low` is its lower end. If it is None, since all resamples agree (a constant or a perfect predictor), Wilson's
    interval over the independent `units` is used, as in `stats.proportion_interval`.
    """
    if guessing is None:
        return None
    end = stats.wilson(units * value, units, level)[0] if low is None else low
    return bool(end > guessing + 1e-9)  # tolerance for rounding
