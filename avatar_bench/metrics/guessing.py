"""Guessing level of the balanced accuracy, and the test whether a predictor exceeds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist

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


def find_better_than_guessing(
    tests: Sequence[Callable[[float], bool | None]], level: float = 0.95
) -> list[bool | None]:
    """Return which of several predictors beat guessing, by Holm's method (see `paired_tests.holm`).

    Each test maps a level to whether the interval of a predictor at this level lies above guessing, None if unknown.
    """
    found: list[bool | None] = [False] * len(tests)
    while True:
        corrected = 1 - (1 - level) / max(1, found.count(False))
        better = [test(corrected) for test in tests]
        if better == found:
            return found
        found = better


def widen_low(value: float, low: float, level: float) -> float:
    """Return the lower end at a higher level of an interval at 95 %, as of a normal distribution."""
    factor = NormalDist().inv_cdf((1 + level) / 2) / NormalDist().inv_cdf(0.975)
    return value - (value - low) * factor
