"""The one-class test: where predictions go when the images of one class alone are transformed.

With only class k transformed, the predictions of the others stay; so one pass over all images, transformed, holds the
test of every class, and row k of `prediction_shifts` is what transforming class k does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def prediction_shifts(before: ArrayLike, after: ArrayLike) -> Floats:
    """Give what each prediction gains, of class k's images, when class k is transformed, (..., C, C), -1 to 1.

    `before` and `after` (..., C, C) count the same images, targets by predictions. Rows sum to 0; those of absent
    classes are NaN.
    """
    counts = np.asarray(before, dtype=np.float64)
    totals = counts.sum(axis=-1, keepdims=True)
    gained = np.asarray(after, dtype=np.float64) - counts
    return np.asarray(np.divide(gained, totals, out=np.full(gained.shape, np.nan), where=totals > 0))


def bias(moved: ArrayLike) -> Floats:
    """Give what each prediction gains, averaged over the present classes, each transformed alone, (..., C).

    Above 0 the transformation itself is taken for a sign of the class; at 0 as many images leave the class as come to
    it. The classes sum to 0. NaN where fewer than two classes are present: then leaving one is coming to another.
    """
    table = np.asarray(moved, dtype=np.float64)
    present = (~np.isnan(table).any(axis=-1)).sum(axis=-1)[..., None]
    mean = np.nansum(table, axis=-2) / np.maximum(present, 1)
    return np.where(present >= 2, mean, np.nan)


def fragility(moved: ArrayLike) -> Floats:
    """Give the recall that each class loses when it alone is transformed, (..., C), -1 to 1; NaN for an absent one."""
    return np.asarray(0.0 - np.diagonal(np.asarray(moved, dtype=np.float64), axis1=-2, axis2=-1))
