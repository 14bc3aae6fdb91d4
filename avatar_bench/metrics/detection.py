"""Out-of-domain detection: scores of images from logits and embeddings, and how well a score tells two sets apart.

The higher a score, the more it speaks for an image from outside the domain. Such images are the positive ones.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, softmax
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

Floats = NDArray[np.float64]
FPR_RECALL = 0.95
MAX_CONDITION = 1e6  # embeddings come in single precision, which keeps less than a digit of a worse inverse


class Gaussians(NamedTuple):
    """Hold one mean a class, (C, D), and what whitens the covariance that the classes share, (D, D).

    `shrinkage`, 0 to 1, is the weight of a spherical covariance that was mixed in, 0 where none had to be.
    """

    means: Floats
    whitening: Floats
    shrinkage: float


def msp(logits: ArrayLike) -> Floats:
    """Give minus the largest softmax probability of logits (N, C), (N,), -1 to -1/C.

    Hendrycks and Gimpel, ICLR 2017.
    """
    probabilities: Floats = softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return np.asarray(-probabilities.max(axis=1))


def max_logit(logits: ArrayLike) -> Floats:
    """Give minus the largest of logits (N, C), (N,); Hendrycks et al., ICML 2022."""
    return np.asarray(-np.asarray(logits, dtype=np.float64).max(axis=1))


def energy(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Give -T log sum exp(logits / T) of logits (N, C), (N,); Liu et al., NeurIPS 2020."""
    scaled: Floats = np.asarray(logits, dtype=np.float64) / temperature
    return np.asarray(-temperature * logsumexp(scaled, axis=1))


def fit_gaussians(embeddings: ArrayLike, targets: ArrayLike) -> Gaussians:
    """Fit a mean for each class and one covariance for all to training embeddings (N, D) of classes (N,).

    A covariance whose condition number is above CONDITION (hardly more images than features, features that hardly
    change) is mixed with a spherical one by the weight of Ledoit and Wolf, J. Multivar. Anal. 88 (2004) 365, or by the
    least that brings it to CONDITION where theirs does not.
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
    """Give the squared Mahalanobis distance of embeddings (N, D) to the nearest class mean, (N,).

    Lee et al., NeurIPS 2018.
    """
    white = np.asarray(embeddings, dtype=np.float64) @ gaussians.whitening
    centres = gaussians.means @ gaussians.whitening
    return np.asarray(np.min([((white - centre) ** 2).sum(axis=1) for centre in centres], axis=0))


def knn(embeddings: ArrayLike, training: ArrayLike, k: int = 50) -> Floats:
    """Give the distance of embeddings (N, D) to their k-th nearest training embedding (M, D), all of length 1; (N,).

    Where k is above M, the farthest is taken. Sun et al., ICML 2022.
    """
    known = normalize(np.asarray(training, dtype=np.float64))
    search = NearestNeighbors(n_neighbors=min(k, len(known)), algorithm="brute").fit(known)  # type: ignore[no-untyped-call]
    distances, _ = search.kneighbors(normalize(np.asarray(embeddings, dtype=np.float64)))
    return np.asarray(distances[:, -1])


class RocCurve(NamedTuple):
    """Hold a ROC curve at each distinct score of a positive image, highest first, or a stack of them, (..., T).

    `recall` is the share of the positive images at or above the score, `alarm` that of the others, `above` that of
    the others above it, 0 to 1; NaN where there are none. `share` is that of the positive among all images.
    """

    recall: Floats
    alarm: Floats
    above: Floats
    share: float


def roc(scores: ArrayLike, positive: ArrayLike, weights: ArrayLike | None = None) -> RocCurve:
    """Give the ROC curve of scores (N,) for telling the positive (N,) bool from the others; weights (B, N) give B."""
    score, mask = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    weight = np.ones(len(score)) if weights is None else np.asarray(weights, dtype=np.float64)
    steps = np.unique(score[mask])[::-1] if mask.any() else np.array([np.inf])
    recall, _ = _fractions_above(score[mask], weight[..., mask], steps)
    alarm, above = _fractions_above(score[~mask], weight[..., ~mask], steps)
    return RocCurve(recall, alarm, above, float(mask.mean()))


def auroc(curve: RocCurve) -> Floats:
    """Give the chance that a positive image scores above another, ties counting half, (...), 0 to 1."""
    won = 1 - (curve.alarm + curve.above) / 2
    return np.asarray((won * np.diff(curve.recall, axis=-1, prepend=0.0)).sum(axis=-1))


def aupr(curve: RocCurve) -> Floats:
    """Give the area under the precision-recall curve as average precision, (...), 0 to 1; chance is `curve.share`.

    Precision depends on the share of the positive images, which is kept whatever the weights.
    """
    found, false = curve.share * curve.recall, (1 - curve.share) * curve.alarm
    precision = np.divide(found, found + false, out=np.zeros_like(found), where=found + false != 0)
    return np.asarray((precision * np.diff(curve.recall, axis=-1, prepend=0.0)).sum(axis=-1))


def fpr95(curve: RocCurve) -> Floats:
    """Give the share of the others that are flagged where a threshold flags 95 % of the positive, (...), 0 to 1.

    The threshold is the highest that flags 95 % or more.
    """
    first = (curve.recall >= FPR_RECALL - 1e-12).argmax(axis=-1)[..., None]  # 19 of 20 is enough, whatever the rounding
    return np.asarray(np.take_along_axis(curve.alarm + 0 * curve.recall, first, axis=-1)[..., 0])


def _fractions_above(scores: Floats, weights: Floats, steps: Floats) -> tuple[Floats, Floats]:
    """Give the weighted shares of scores (N,) at or above, and above, each of steps (T,), both (..., T)."""
    order = np.argsort(scores)
    below = np.zeros((*weights.shape[:-1], len(scores) + 1))
    np.cumsum(weights[..., order], axis=-1, out=below[..., 1:])
    whole = below[..., -1:]
    sides: tuple[Literal["left"], Literal["right"]] = ("left", "right")
    left, right = (whole - below[..., np.searchsorted(scores[order], steps, side)] for side in sides)
    return _ratio(left, whole), _ratio(right, whole)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0))
