"""Scores of images that are out of a network's domain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from avatar_bench.config.options import Options, option
from avatar_bench.metrics.neighbours import compute_distances

MAX_CONDITION = 1e6  # embeddings have single precision, so an inverse beyond this has less than one correct digit

Floats = NDArray[np.float64]


class NetworkOutputs(Protocol):
    """Outputs of a network for N images."""

    @property
    def logits(self) -> NDArray[Any]:
        """Return the logits before any temperature, (N, C); log probabilities where there are no logits."""

    @property
    def embeddings(self) -> NDArray[Any]:
        """Return the features before the classifier, (N, D)."""

    @property
    def targets(self) -> NDArray[Any]:
        """Return the true classes, (N,), -1 where unknown."""


@dataclass(kw_only=True)
class OodScore(Options):
    """Score of images by the outputs of a network: the higher, the more likely an image is out of domain.

    A subclass adds its options as fields. With `needs_logits` it is left out where there are only probabilities, with
    `needs_training` where the training images are not known; otherwise `fit` is called first.
    """

    needs_logits: ClassVar[bool] = False
    needs_training: ClassVar[bool] = False

    def fit(self, training: NetworkOutputs) -> None:
        """Fit the score to the outputs for the training images."""

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        raise NotImplementedError


@dataclass(kw_only=True)
class MspOodScore(OodScore):
    """Minus the largest softmax probability, -1 to -1/C; Hendrycks and Gimpel, ICLR 2017."""

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        return np.asarray(-softmax(outputs.logits.astype(np.float64), axis=1).max(axis=1))


@dataclass(kw_only=True)
class MaxLogitOodScore(OodScore):
    """Minus the largest logit; Hendrycks et al., ICML 2022."""

    needs_logits: ClassVar[bool] = True

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        return np.asarray(-outputs.logits.astype(np.float64).max(axis=1))


@dataclass(kw_only=True)
class EnergyOodScore(OodScore):
    """Minus the log-sum-exp of the logits; Liu et al., NeurIPS 2020."""

    needs_logits: ClassVar[bool] = True

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        return np.asarray(-logsumexp(outputs.logits.astype(np.float64), axis=1))


@dataclass(kw_only=True)
class MahalanobisOodScore(OodScore):
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
        n, width = centred.shape
        if n < width:  # as mostly of an ensemble: its thousands of features would take seconds below
            _, scales, rows = np.linalg.svd(centred, full_matrices=False)
            variances, axes, smallest = scales**2 / n, rows.T, 0.0
        else:
            variances, axes = np.linalg.eigh(centred.T @ centred / n)
            smallest = variances[0]
        if variances.max() <= 0:
            self.whitening, self.shrinkage = np.eye(width), 1.0
            return
        mean, excess = variances.sum() / width, variances.max() - MAX_CONDITION * smallest
        self.shrinkage = 0.0
        if excess > 0:
            enough = excess / (excess + (MAX_CONDITION - 1) * mean)
            self.shrinkage = max(float(ledoit_wolf_shrinkage(centred, assume_centered=True)), float(enough))
            variances, smallest = (
                (1 - self.shrinkage) * each + self.shrinkage * mean for each in (variances, smallest)
            )
        other = 1 / np.sqrt(smallest)  # along directions that are no axis
        self.whitening = (axes * (1 / np.sqrt(variances) - other)) @ axes.T + other * np.eye(width)

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        white, centres = np.asarray(outputs.embeddings, dtype=np.float64) @ self.whitening, self.means @ self.whitening
        return np.asarray(np.min([((white - centre) ** 2).sum(axis=1) for centre in centres], axis=0))


@dataclass(kw_only=True)
class KnnOodScore(OodScore):
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


@dataclass(kw_only=True)
class DecisionOodScore(OodScore):
    """Distance to a near reference image of the run's calibration, as decisions measure it."""

    def use(self, reference: NDArray[np.floating], neighbours: int) -> None:
        """Take the embeddings (M, D) of the reference images, and which of the nearest counts."""
        self._reference, self._neighbours = reference, neighbours

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        return compute_distances(self._reference, outputs.embeddings, self._neighbours)
