"""Quantiles of repeated measurements, for many resamples at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def quantiles(values: ArrayLike, levels: Sequence[float], weights: ArrayLike) -> NDArray[np.float64]:
    """Give quantiles (B, K) at K levels, 0 to 1, of values (N,) counted `weights` (B, N) times each.

    The smallest value up to which a share of `level` lies (numpy's "inverted_cdf"); NaN where all weights are 0.
    """
    value, weight = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    order = np.argsort(value, kind="stable")
    cumulated = weight[:, order].cumsum(axis=1)
    total = cumulated[:, -1:]
    # a rounding error in level x total must not pass over the value that it names
    wanted = np.maximum(np.asarray(levels) * total * (1 - 1e-12), np.finfo(float).tiny)
    places = (cumulated[:, None, :] < wanted[:, :, None]).sum(axis=2)
    found: NDArray[np.float64] = value[order][np.minimum(places, len(value) - 1)]
    return np.where(total > 0, found, np.nan)
