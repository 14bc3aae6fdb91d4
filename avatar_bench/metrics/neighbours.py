"""Neighbours of embeddings: distances, nearest ones, the class that they vote for, purity and trustworthiness."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.preprocessing import normalize

from avatar_bench.metrics.stats import ratio

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
_CHUNK_ROWS = 512  # whose distances to all of the reference are in memory at once


def distances(embeddings: ArrayLike, metric: str = "euclidean") -> Floats:
    """Compute the distances of all pairs, (N, N) with a zero diagonal; `metric` is euclidean or cosine."""
    return np.asarray(pairwise_distances(np.asarray(embeddings, dtype=np.float64), metric=metric))


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
    rank = np.argsort(np.argsort(original, axis=1, kind="stable"), axis=1) + 1
    near = np.argsort(drawn, axis=1, kind="stable")[:, :k]
    excess = np.maximum(0, np.take_along_axis(rank, near, axis=1) - k).sum(axis=1)
    return np.asarray(1 - 2 * excess / (k * (2 * n - 3 * k - 1)))


def predict_by_knn(train: ArrayLike, labels: ArrayLike, embeddings: ArrayLike, k: int = 20) -> NDArray[np.str_]:
    """Predict the most frequent label among the k nearest training embeddings, by cosine distance, (N,).

    `train` (M, D) with `labels` (M,), `embeddings` (N, D); if M is below k, all vote. Ties go to the first label in
    sorted order.
    """
    vote = KNeighborsClassifier(min(k, len(np.asarray(labels))), metric="cosine", algorithm="brute")  # type: ignore[no-untyped-call]
    return np.asarray(vote.fit(np.asarray(train), np.asarray(labels)).predict(np.asarray(embeddings)))


def find_nearest(train: ArrayLike, embeddings: ArrayLike, k: int) -> NDArray[np.intp]:
    """Return the positions of the k nearest training embeddings, by cosine distance, nearest first, (N, k).

    `train` (M, D), `embeddings` (N, D); if M is below k, there are M of each.
    """
    known = np.asarray(train)
    search = NearestNeighbors(n_neighbors=min(k, len(known)), metric="cosine", algorithm="brute").fit(known)  # type: ignore[no-untyped-call]
    return np.asarray(search.kneighbors(np.asarray(embeddings), return_distance=False), dtype=np.intp)


def compute_distances(
    reference: ArrayLike, embeddings: ArrayLike, k: int, is_own: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Compute the distance, 0 to 2, of embeddings (N, D) to the k-th nearest of the reference (M, D), (N,).

    All are scaled to length 1. Pairs that `is_own` (N, M) marks do not count; with fewer than k left, the farthest
    counts, and infinity with none.
    """
    known, queries = (normalize(np.asarray(rows_of, dtype=np.float64)) for rows_of in (reference, embeddings))
    nearest = np.empty(len(queries))
    for first in range(0, len(queries), _CHUNK_ROWS):
        rows = slice(first, first + _CHUNK_ROWS)
        squares = np.maximum(2 - 2 * queries[rows] @ known.T, 0)
        if is_own is not None:
            squares[is_own[rows]] = np.inf
        squares.sort(axis=1)
        position = np.clip(np.isfinite(squares).sum(axis=1), 1, k) - 1
        nearest[rows] = np.sqrt(squares[np.arange(len(squares)), position])
    return nearest
