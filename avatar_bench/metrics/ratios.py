"""Quotients and means of arrays in which NaN stands for an undefined value."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def ratio(part: ArrayLike, whole: ArrayLike) -> Floats:
    """Divide arrays, broadcast; NaN where `whole` is not above 0."""
    above, below = np.broadcast_arrays(np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64))
    return np.asarray(np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0))


def nan_mean(values: Floats, axis: int | None = None) -> Floats:
    """Compute the mean without NaN; NaN, without a warning, if all values are NaN."""
    return ratio(np.nansum(values, axis=axis), (~np.isnan(values)).sum(axis=axis))
