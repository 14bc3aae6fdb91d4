"""Distance of the embedding to the k-th nearest training embedding, all scaled to length 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from avatar_bench.config.options import option
from avatar_bench.metrics.ood_scores import Floats, NetworkOutputs, OodScore


@dataclass(kw_only=True)
class Knn(OodScore):
    """Distance to the k-th nearest training embedding."""

    needs_training: ClassVar[bool] = True

    k: int = option(50, help="neighbour whose distance counts; the farthest if there are fewer", range=(1, None))

    def fit(self, training: NetworkOutputs) -> None:
        """Keep the training embeddings."""
        self._training = training.embeddings

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        return knn(outputs.embeddings, self._training, self.k)


def knn(embeddings: ArrayLike, training: ArrayLike, k: int = 50) -> Floats:
    """Compute the distance (N,) of embeddings (N, D) to their k-th nearest training embedding (M, D), all normalised.

    If k is above M, the farthest is used. Sun et al., ICML 2022.
    """
    known = normalize(np.asarray(training, dtype=np.float64))
    search = NearestNeighbors(n_neighbors=min(k, len(known)), algorithm="brute").fit(known)  # type: ignore[no-untyped-call]
    distances, _ = search.kneighbors(normalize(np.asarray(embeddings, dtype=np.float64)))
    return np.asarray(distances[:, -1])
