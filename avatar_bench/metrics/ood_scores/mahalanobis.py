"""Squared distance of the embedding to the nearest class mean, in the covariance that the classes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage

from avatar_bench.metrics.ood_scores import Floats, NetworkOutputs, OodScore

MAX_CONDITION = 1e6  # embeddings have single precision, so an inverse beyond this has less than one correct digit


@dataclass(kw_only=True)
class Mahalanobis(OodScore):
    """Squared Mahalanobis distance to the nearest class mean of the training embeddings; Lee et al., NeurIPS 2018.

    Fitting sets the class `means` (C, D), the `whitening` matrix (D, D) of the covariance that the classes share, and
    `shrinkage`, 0 to 1, the weight of the spherical covariance that was mixed in, 0 if it was not needed.
    """

    needs_training: ClassVar[bool] = True

    def fit(self, training: NetworkOutputs) -> None:
        """Fit the class means and their covariance.

        A covariance with a condition number above MAX_CONDITION (few images per feature, nearly constant features) is
        mixed with a spherical one, with the weight of Ledoit and Wolf, J. Multivar. Anal. 88 (2004) 365, or if that is
        too small with the smallest weight that reaches MAX_CONDITION.
        """
        features = np.asarray(training.embeddings, dtype=np.float64)
        classes, member = np.unique(training.targets, return_inverse=True)
        self.means = np.stack([features[member == index].mean(axis=0) for index in range(len(classes))])
        centred = features - self.means[member]
        variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
        if variances[-1] <= 0:
            self.whitening, self.shrinkage = axes, 1.0
            return
        self.shrinkage, excess = 0.0, variances[-1] - MAX_CONDITION * variances[0]
        if excess > 0:
            enough = excess / (excess + (MAX_CONDITION - 1) * variances.mean())
            self.shrinkage = max(float(ledoit_wolf_shrinkage(centred, assume_centered=True)), float(enough))
            variances = (1 - self.shrinkage) * variances + self.shrinkage * variances.mean()
        self.whitening = axes / np.sqrt(variances)

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        white, centres = np.asarray(outputs.embeddings, dtype=np.float64) @ self.whitening, self.means @ self.whitening
        return np.asarray(np.min([((white - centre) ** 2).sum(axis=1) for centre in centres], axis=0))
