"""k-nearest-neighbour classification of embeddings."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import KNeighborsClassifier


def predict_by_knn(train: ArrayLike, labels: ArrayLike, embeddings: ArrayLike, k: int = 20) -> NDArray[np.str_]:
    """Predict the most frequent label among the k nearest training embeddings, by cosine distance, (N,).

    `train` (M, D) with `labels` (M,), `embeddings` (N, D); if M is below k, all vote. Ties go to the first label in
    sorted order.
    """
    vote = KNeighborsClassifier(min(k, len(np.asarray(labels))), metric="cosine", algorithm="brute")  # type: ignore[no-untyped-call]
    return np.asarray(vote.fit(np.asarray(train), np.asarray(labels)).predict(np.asarray(embeddings)))
