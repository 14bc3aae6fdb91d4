"""Distance of the embedding to the k-th nearest training embedding, all scaled to length 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from avatar_bench.config.options import option
from avatar_bench.metrics.ood_scores import Floats, NetworkOutputs, OodScore


@dataclass(kw_only=True)
class Knn(OodScore):
    """Distance to the k-th nearest training embedding; Sun et al., ICML 2022."""

    needs_training: ClassVar[bool] = True

    k: int = option(50, help="neighbour whose distance counts; the farthest if there are fewer", range=(1, None))

    def fit(self, training: NetworkOutputs) -> None:
        """Index the training embeddings."""
        known = normalize(training.embeddings.astype(np.float64))
        self._search = NearestNeighbors(n_neighbors=min(self.k, len(known)), algorithm="brute").fit(known)  # type: ignore[no-untyped-call]

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        distances, _ = self._search.kneighbors(normalize(outputs.embeddings.astype(np.float64)))
        return np.asarray(distances[:, -1])
