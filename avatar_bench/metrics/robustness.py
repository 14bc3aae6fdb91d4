"""One-class test: shifts of predictions when only the images of one class are transformed.

If only class k is transformed, the predictions of the others do not change; so a single pass over all transformed
images covers every class, and row k of `prediction_shifts` is the effect of transforming class k.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avatar_bench.metrics.ratios import ratio

Floats = NDArray[np.float64]


def prediction_shifts(before: ArrayLike, after: ArrayLike) -> Floats:
    """Compute the change of each prediction's frequency in class k when class k is transformed, (..., C, C), -1 to 1.

    `before` and `after` (..., C, C) count the same images, targets by predictions. Rows sum to 0; those of absent
    classes are NaN.
    """
    counts = np.asarray(before, dtype=np.float64)
    return ratio(np.asarray(after, dtype=np.float64) - counts, counts.sum(axis=-1, keepdims=True))


def bias(moved: ArrayLike) -> Floats:
    """Compute the mean shift to each predicted class over the present classes, each transformed alone, (..., C).

    Above 0 the network takes the transformation for a sign of the class; at 0 as many images leave the class as join
    it. The values sum to 0. NaN if fewer than two classes are present.
    """
    table = np.asarray(moved, dtype=np.float64)
    present = (~np.isnan(table).any(axis=-1)).sum(axis=-1)[..., None]
    mean = np.nansum(table, axis=-2) / np.maximum(present, 1)
    return np.where(present >= 2, mean, np.nan)


def fragility(moved: ArrayLike) -> Floats:
    """Compute the recall that each class loses when only it is transformed, (..., C), -1 to 1; NaN if absent."""
    return np.asarray(0.0 - np.diagonal(np.asarray(moved, dtype=np.float64), axis1=-2, axis2=-1))
