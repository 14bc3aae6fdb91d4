"""Squared distance of the embedding to the nearest class mean, in the covariance that the classes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.covariance import ledoit_wolf_shrinkage

from avatar_bench.metrics.ood_scores import Floats, NetworkOutputs, OodScore

MAX_CONDITION = 1e6  # embeddings have single precision, so an inverse beyond this has less than one correct digit


class Gaussians(NamedTuple):
    """Class means (C, D), and the whitening matrix (D, D) of the covariance that the classes share.

    `shrinkage`, 0 to 1, is the weight of the spherical covariance that was mixed in, 0 if it was not needed.
    """

    means: Floats
    whitening: Floats
    shrinkage: float


@dataclass(kw_only=True)
class Mahalanobis(OodScore):
    """Squared Mahalanobis distance to the nearest class mean of the training embeddings."""

    needs_training: ClassVar[bool] = True

    def fit(self, training: NetworkOutputs) -> None:
        """Fit the class means and their covariance."""
        self._gaussians = fit_gaussians(training.embeddings, training.targets)

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        return mahalanobis(outputs.embeddings, self._gaussians)

    @property
    def shrinkage(self) -> float:
        """Return the weight of the spherical covariance that was mixed in, 0 to 1."""
        return self._gaussians.shrinkage


def fit_gaussians(embeddings: ArrayLike, targets: ArrayLike) -> Gaussians:
    """Fit a mean for each class and one covariance for all to training embeddings (N, D) of classes (N,).

    A covariance with a condition number above MAX_CONDITION (few images per feature, nearly constant features) is mixed
    with a spherical one, with the weight of Ledoit and Wolf, J. Multivar. Anal. 88 (2004) 365, or if that is too small
    with the smallest weight that reaches MAX_CONDITION.
    """
    features = np.asarray(embeddings, dtype=np.float64)
    classes, member = np.unique(np.asarray(targets), return_inverse=True)
    means = np.stack([features[member == index].mean(axis=0) for index in range(len(classes))])
    centred = features - means[member]
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    if variances[-1] <= 0:
        return Gaussians(means, axes, 1.0)
    shrinkage, excess = 0.0, variances[-1] - MAX_CONDITION * variances[0]
    if excess > 0:
        enough = excess / (excess + (MAX_CONDITION - 1) * variances.mean())
        shrinkage = max(float(ledoit_wolf_shrinkage(centred, assume_centered=True)), float(enough))
        variances = (1 - shrinkage) * variances + shrinkage * variances.mean()
    return Gaussians(means, axes / np.sqrt(variances), shrinkage)


def mahalanobis(embeddings: ArrayLike, gaussians: Gaussians) -> Floats:
    """Compute the squared Mahalanobis distance of embeddings (N, D) to the nearest class mean, (N,).

    Lee et al., NeurIPS 2018.
    """
    white = np.asarray(embeddings, dtype=np.float64) @ gaussians.whitening
    centres = gaussians.means @ gaussians.whitening
    return np.asarray(np.min([((white - centre) ** 2).sum(axis=1) for centre in centres], axis=0))
