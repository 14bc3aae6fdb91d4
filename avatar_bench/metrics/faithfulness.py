"""Faithfulness of attribution maps: pixel ranks, areas under curves and rank correlation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from avatar_bench.metrics.ratios import ratio

Floats = NDArray[np.float64]


def upsample(maps: ArrayLike, size: int) -> Floats:
    """Upsample maps (N, h, w) bilinearly to (N, size, size), with aligned pixel centres and replicated borders."""
    values = np.asarray(maps, dtype=np.float64)
    rows, columns = (_weights(length, size) for length in values.shape[1:])
    return np.asarray(rows @ values @ columns.T)


def rank_pixels(maps: ArrayLike, size: int, generator: np.random.Generator) -> NDArray[np.int32]:
    """Rank the pixels of images by their maps, (N, h, w) to (N, size, size); 0 is the most important.

    Ties, such as the zeros of a rectified map, are ordered at random.
    """
    values = upsample(maps, size).reshape(len(np.asarray(maps)), -1)
    ties = generator.random(values.shape)
    order = np.lexsort((ties, -values))
    ranks = np.empty(order.shape, dtype=np.int32)
    np.put_along_axis(ranks, order, np.arange(size * size, dtype=np.int32)[None], axis=1)
    return ranks.reshape(-1, size, size)


def area_under_curve(curves: ArrayLike) -> Floats:
    """Compute the area (N,) under each curve (N, K + 1) over K equal steps from 0 to 1, by the trapezoidal rule."""
    heights = np.asarray(curves, dtype=np.float64)
    return np.asarray(np.trapezoid(heights, dx=1 / (heights.shape[1] - 1), axis=1))


def rank_correlation(first: ArrayLike, second: ArrayLike) -> Floats:
    """Compute Spearman's correlation (N,) of each pair of maps (N, h, w); NaN if a map is constant."""
    one, other = (_centred_ranks(maps) for maps in (first, second))
    norms = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    return ratio((one * other).sum(axis=1), norms)


def _weights(length: int, size: int) -> Floats:
    """Return the matrix (size, length) of linear interpolation between cell centres."""
    places = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    return np.asarray(np.maximum(0.0, 1 - np.abs(places[:, None] - np.arange(length))))


def _centred_ranks(maps: ArrayLike) -> Floats:
    values = np.asarray(maps)
    ranks = rankdata(values.reshape(len(values), -1), axis=1)
    return np.asarray(ranks - ranks.mean(axis=1, keepdims=True))
