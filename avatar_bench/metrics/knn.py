"""k nearest neighbours: how well embeddings tell classes when nothing is trained on them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import KNeighborsClassifier


def predict_by_knn(train: ArrayLike, labels: ArrayLike, embeddings: ArrayLike, k: int = 20) -> NDArray[np.str_]:
    """Give the label that most of the k nearest training embeddings bear, by cosine distance, (N,).

    `train` (M, D) with `labels` (M,), `embeddings` (N, D); of M below k, all vote. Of labels with equal votes it is the
    first in sorted order.
    """
    vote = KNeighborsClassifier(min(k, len(np.asarray(labels))), metric="cosine", algorithm="brute")  # type: ignore[no-untyped-call]
    return np.asarray(vote.fit(np.asarray(train), np.asarray(labels)).predict(np.asarray(embeddings)))
