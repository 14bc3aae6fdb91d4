"""Nearest neighbours of embeddings: the class that they vote for, and their distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.preprocessing import normalize

_CHUNK_ROWS = 512  # whose distances to all of the reference are in memory at once


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
    known, asked = (normalize(np.asarray(each, dtype=np.float64)) for each in (reference, embeddings))
    found = np.empty(len(asked))
    for first in range(0, len(asked), _CHUNK_ROWS):
        rows = slice(first, first + _CHUNK_ROWS)
        squares = np.maximum(2 - 2 * asked[rows] @ known.T, 0)
        if is_own is not None:
            squares[is_own[rows]] = np.inf
        squares.sort(axis=1)
        place = np.clip(np.isfinite(squares).sum(axis=1), 1, k) - 1
        found[rows] = np.sqrt(squares[np.arange(len(squares)), place])
    return found
