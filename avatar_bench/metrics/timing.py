"""Weighted quantiles of repeated measurements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def quantiles(values: ArrayLike, levels: Sequence[float], weights: ArrayLike) -> NDArray[np.float64]:
    """Compute quantiles (B, K) at K levels, 0 to 1, of values (N,) repeated by integer `weights` (B, N).

    Interpolated linearly, as by numpy's default (Hyndman and Fan 1996, type 7), so that 0.5 is
    the median. NaN if all weights are 0.
    """
    value, weight = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    order = np.argsort(value, kind="stable")
    cumulated = weight[:, order].cumsum(axis=1)
    total = cumulated[:, -1:]
    rank = np.asarray(levels) * np.maximum(total - 1, 0)  # zero-based, among the repeated values
    below, above = (
        value[order][np.minimum((cumulated[:, None, :] <= whole[:, :, None]).sum(axis=2), len(value) - 1)]
        for whole in (np.floor(rank), np.ceil(rank))
    )
    return np.where(total > 0, below + (above - below) * (rank - np.floor(rank)), np.nan)
