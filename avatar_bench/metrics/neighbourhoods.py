"""Neighbourhoods of embeddings: distances, nearest neighbours, purity and trustworthiness."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import pairwise_distances

from avatar_bench.metrics.ratios import ratio

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


def distances(embeddings: ArrayLike, metric: str = "euclidean") -> Floats:
    """Compute the distances of all pairs, (N, N) with a zero diagonal; `metric` is euclidean or cosine."""
    result = pairwise_distances(np.asarray(embeddings, dtype=np.float64), metric=metric)
    np.fill_diagonal(result, 0.0)
    return np.asarray(result)


def find_neighbours(between: Floats, groups: ArrayLike, k: int, within: ArrayLike | None = None) -> Indices:
    """Return the rows of the k nearest images of other groups, (N, k), nearest first; -1 if there are fewer.

    With `within` (N,) only images with the same value count.
    """
    group = np.asarray(groups)
    allowed = group[:, None] != group
    if within is not None:
        kind = np.asarray(within)
        allowed &= kind[:, None] == kind
    ranked = np.argsort(np.where(allowed, between, np.inf), axis=1, kind="stable")[:, :k]
    return np.where(np.take_along_axis(allowed, ranked, axis=1), ranked, -1)


def purity(near: Indices, labels: ArrayLike) -> Floats:
    """Compute the fraction (N,) of each image's neighbours (N, k) with its own label; NaN without neighbours."""
    label = np.asarray(labels)
    same = (label[near] == label[:, None]) & (near >= 0)
    return ratio(same.sum(axis=1), (near >= 0).sum(axis=1))


def trustworthiness(embeddings: ArrayLike, points: ArrayLike, k: int = 5) -> Floats:
    """Compute the trustworthiness (N,), at most 1, of each image's k neighbours on a map (N, 2).

    It compares them with the neighbours in the embedding. The mean is the trustworthiness of the map, about .5 for a
    random one. `k` is below N / 2.
    Venna and Kaski, ICANN 2001, 485.
    """
    n = len(np.asarray(points))
    original, drawn = distances(embeddings), distances(points)
    for table in (original, drawn):
        np.fill_diagonal(table, np.inf)
    rank = np.empty((n, n), dtype=np.intp)
    np.put_along_axis(rank, np.argsort(original, axis=1, kind="stable"), np.arange(1, n + 1)[None, :], axis=1)
    near = np.argsort(drawn, axis=1, kind="stable")[:, :k]
    excess = np.maximum(0, np.take_along_axis(rank, near, axis=1) - k).sum(axis=1)
    return np.asarray(1 - 2 * excess / (k * (2 * n - 3 * k - 1)))
