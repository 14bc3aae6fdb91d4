"""Out-of-distribution detection: scores of images from logits and embeddings, and detection metrics.

A higher score means that an image is more likely out of domain. Out-of-domain images are the positive ones.
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
MAX_CONDITION = 1e6  # embeddings have single precision, so an inverse beyond this has less than one correct digit


class Gaussians(NamedTuple):
    """Class means (C, D), and the whitening matrix (D, D) of the covariance that the classes share.

    `shrinkage`, 0 to 1, is the weight of the spherical covariance that was mixed in, 0 if it was not needed.
    """

    means: Floats
    whitening: Floats
    shrinkage: float


def msp(logits: ArrayLike) -> Floats:
    """Compute minus the largest softmax probability of logits (N, C), (N,), -1 to -1/C.

    Hendrycks and Gimpel, ICLR 2017.
    """
    probabilities: Floats = softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return np.asarray(-probabilities.max(axis=1))


def max_logit(logits: ArrayLike) -> Floats:
    """Compute minus the largest of logits (N, C), (N,); Hendrycks et al., ICML 2022."""
    return np.asarray(-np.asarray(logits, dtype=np.float64).max(axis=1))


def energy(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Compute -T log sum exp(logits / T) of logits (N, C), (N,); Liu et al., NeurIPS 2020."""
    scaled: Floats = np.asarray(logits, dtype=np.float64) / temperature
    return np.asarray(-temperature * logsumexp(scaled, axis=1))


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


def knn(embeddings: ArrayLike, training: ArrayLike, k: int = 50) -> Floats:
    """Compute the distance (N,) of embeddings (N, D) to their k-th nearest training embedding (M, D), all normalised.

    If k is above M, the farthest is used. Sun et al., ICML 2022.
    """
    known = normalize(np.asarray(training, dtype=np.float64))
    search = NearestNeighbors(n_neighbors=min(k, len(known)), algorithm="brute").fit(known)  # type: ignore[no-untyped-call]
    distances, _ = search.kneighbors(normalize(np.asarray(embeddings, dtype=np.float64)))
    return np.asarray(distances[:, -1])


class RocCurve(NamedTuple):
    """ROC curve at each distinct score of a positive image, highest first, or a stack of curves, (..., T).

    `recall` is the fraction of positive images at or above the score, `false_positive_rate` that of the negative ones,
    `rate_above` that of the negative ones strictly above it, 0 to 1; NaN without images. `prevalence` is the fraction
    of positive images.
    """

    recall: Floats
    false_positive_rate: Floats
    rate_above: Floats
    prevalence: float


def roc(scores: ArrayLike, positive: ArrayLike, weights: ArrayLike | None = None) -> RocCurve:
    """Compute the ROC curve of scores (N,) for positive (N,) bool images; weights (B, N) return a stack of B curves."""
    score, mask = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    weight = np.ones(len(score)) if weights is None else np.asarray(weights, dtype=np.float64)
    steps = np.unique(score[mask])[::-1] if mask.any() else np.array([np.inf])
    recall, _ = _fractions_above(score[mask], weight[..., mask], steps)
    rate, above = _fractions_above(score[~mask], weight[..., ~mask], steps)
    return RocCurve(recall, rate, above, float(mask.mean()))


def auroc(curve: RocCurve) -> Floats:
    """Compute the AUROC, (...): the probability that a positive image scores above a negative one, ties count half."""
    won = 1 - (curve.false_positive_rate + curve.rate_above) / 2
    return np.asarray((won * np.diff(curve.recall, axis=-1, prepend=0.0)).sum(axis=-1))


def aupr(curve: RocCurve) -> Floats:
    """Compute the average precision, (...), 0 to 1; the chance level is `curve.prevalence`.

    Precision depends on the prevalence of positive images, which stays fixed for all weights.
    """
    true_positives, false_positives = (
        curve.prevalence * curve.recall,
        (1 - curve.prevalence) * curve.false_positive_rate,
    )
    flagged = true_positives + false_positives
    precision = np.divide(true_positives, flagged, out=np.zeros_like(true_positives), where=flagged != 0)
    return np.asarray((precision * np.diff(curve.recall, axis=-1, prepend=0.0)).sum(axis=-1))


def fpr95(curve: RocCurve) -> Floats:
    """Compute the false positive rate at 95 % recall, (...), 0 to 1.

    The threshold is the highest with a recall of 95 % or more.
    """
    first = (curve.recall >= FPR_RECALL - 1e-12).argmax(axis=-1)[..., None]  # 19 of 20 must pass in spite of rounding
    return np.asarray(np.take_along_axis(curve.false_positive_rate + 0 * curve.recall, first, axis=-1)[..., 0])


def _fractions_above(scores: Floats, weights: Floats, steps: Floats) -> tuple[Floats, Floats]:
    """Compute the weighted fractions of scores (N,) at or above, and above, each of steps (T,), both (..., T)."""
    order = np.argsort(scores)
    below = np.zeros((*weights.shape[:-1], len(scores) + 1))
    np.cumsum(weights[..., order], axis=-1, out=below[..., 1:])
    whole = below[..., -1:]
    sides: tuple[Literal["left"], Literal["right"]] = ("left", "right")
    left, right = (whole - below[..., np.searchsorted(scores[order], steps, side)] for side in sides)
    return _ratio(left, whole), _ratio(right, whole)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0))
