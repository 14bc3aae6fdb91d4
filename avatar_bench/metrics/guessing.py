"""The level that predictions reach without looking at the image, and whether a balanced accuracy exceeds it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from avatar_bench.metrics import stats


def guessing_level(targets: ArrayLike) -> float | None:
    """Return the balanced accuracy that is expected of predictions made without the image: 1 over the classes present.

    Any such predictions, constant or random, name class c with some chance p_c whatever the true class is. Their
    recalls are these p_c, whose mean over the C classes present in `targets` (N,) is 1/C at most. None where fewer than
    two classes are present: naming the one class is then no guess.
    """
    present = len(np.unique(np.asarray(targets)))
    return 1 / present if present > 1 else None


def beats_guessing(
    value: float, low: float | None, units: int, guessing: float | None, level: float = 0.95
) -> bool | None:
    """Return whether the interval of a balanced accuracy lies above the guessing level; None where there is no level.

    `low` is its lower end. Where it has none, as every resample gave the same value (a constant predictor, a perfect
    one), Wilson's interval over the independent `units` takes its place, as in `stats.proportion_interval`.
    """
    if guessing is None:
        return None
    end = stats.wilson(units * value, units, level)[0] if low is None else low
    return bool(end > guessing + 1e-9)  # sums in another order differ in their last digits
