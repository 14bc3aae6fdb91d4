"""Distance of the embedding to images of the run's calibration, by which decisions abstain from unlike images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avatar_bench.metrics.knn import compute_distances
from avatar_bench.metrics.ood_scores import Floats, NetworkOutputs, OodScore


@dataclass(kw_only=True)
class DecisionDistance(OodScore):
    """Distance to a near reference image of the run's calibration, as decisions measure it."""

    def use(self, reference: NDArray[np.floating], neighbours: int) -> None:
        """Take the embeddings (M, D) of the reference images, and which of the nearest counts."""
        self._reference, self._neighbours = reference, neighbours

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        return compute_distances(self._reference, outputs.embeddings, self._neighbours)
