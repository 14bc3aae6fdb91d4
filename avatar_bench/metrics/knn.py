"""Nearest neighbours of embeddings: the class that they vote for, and their distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize


def predict_by_knn(train: ArrayLike, labels: ArrayLike, embeddings: ArrayLike, k: int = 20) -> NDArray[np.str_]:
    """Predict the most frequent label among the k nearest training embeddings, by cosine distance, (N,).

    `train` (M, D) with `labels` (M,), `embeddings` (N, D); if M is below k, all vote. Ties go to the first label in
    sorted order.
    """
    vote = KNeighborsClassifier(min(k, len(np.asarray(labels))), metric="cosine", algorithm="brute")  # type: ignore[no-untyped-call]
    return np.asarray(vote.fit(np.asarray(train), np.asarray(labels)).predict(np.asarray(embeddings)))


def compute_distances(
    reference: ArrayLike, embeddings: ArrayLike, k: int, is_own: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Compute the distance, 0 to 2, of embeddings (N, D) to the k-th nearest of the reference (M, D), (N,).

    All are scaled to length 1. Pairs that `is_own` (N, M) marks do not count; with fewer than k left, the farthest
    counts, and infinity with none.
    """
    known, asked = (normalize(np.asarray(each, dtype=np.float64)) for each in (reference, embeddings))
    squares = np.maximum(2 - 2 * asked @ known.T, 0)
    if is_own is not None:
        squares[is_own] = np.inf
    ranked = np.sort(squares, axis=1)
    usable = np.isfinite(ranked).sum(axis=1)
    place = np.maximum(np.minimum(k, usable) - 1, 0)
    return np.asarray(np.sqrt(ranked[np.arange(len(ranked)), place]))
