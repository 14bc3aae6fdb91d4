"""Cluster quality of embeddings, from sums over pairs of images.

`weights` (B, N) are the counts of each image in B resamples; an image is never compared with itself or its copies.
`labels` (N,) are integers; class k is the k-th of their sorted values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_samples
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from avatar_bench.metrics.neighbours import Indices, distances, find_neighbours, purity
from avatar_bench.metrics.stats import ratio

Floats = NDArray[np.float64]
Labels = NDArray[np.integer]


@dataclass(frozen=True)
class EmbeddingSpace:
    """Embeddings (N, D) of images in groups (N,), with cached distances and `k` neighbours for purity."""

    embeddings: ArrayLike
    groups: ArrayLike
    k: int = 10

    @cached_property
    def euclidean(self) -> Floats:
        """Return the Euclidean distances of all pairs of images, (N, N)."""
        return distances(self.embeddings)

    @cached_property
    def cosine(self) -> Floats:
        """Return the cosine distances of all pairs of images, (N, N), 0 to 2."""
        return distances(self.embeddings, "cosine")

    @cached_property
    def products(self) -> Floats:
        """Return the inner products of all pairs of centred embeddings, (N, N)."""
        centred = np.asarray(self.embeddings, dtype=np.float64)
        centred = centred - centred.mean(axis=0)  # otherwise rounding dominates for clusters far from the origin
        return np.asarray(centred @ centred.T)

    @cached_property
    def neighbour_rows(self) -> Indices:
        """Return the rows of each image's neighbours in other groups, (N, k)."""
        return find_neighbours(self.euclidean, self.groups, self.k)

    def image_scores(self, labels: Labels) -> Floats:
        """Compute silhouette, cosine silhouette and kNN purity of each image, (N, 3); purity NaN without neighbours.

        `labels` have at least 2 and fewer than N values. Rousseeuw, J. Comput. Appl. Math. 20 (1987) 53.
        """
        silhouettes = [silhouette_samples(kind, labels, metric="precomputed") for kind in (self.euclidean, self.cosine)]
        return np.column_stack([*silhouettes, purity(self.neighbour_rows, labels)])

    def global_scores(self, labels: Labels, weights: ArrayLike | None = None) -> Floats:
        """Compute separation ratio, Davies-Bouldin and Calinski-Harabasz, (3,), or (B, 3) for weights (B, N)."""
        drawn = np.ones((1, len(labels))) if weights is None else np.asarray(weights, dtype=np.float64)
        indices = [index(self.products, labels, drawn) for index in (davies_bouldin, calinski_harabasz)]
        scores = np.stack([separation_ratio(self.euclidean, labels, drawn), *indices], axis=-1)
        return scores[0] if weights is None else scores


def mean_distances(between: Floats, labels: Labels) -> Floats:
    """Compute the mean distance of images for all pairs of classes, (K, K), without self-distances.

    `between` (N, N) are distances. NaN on the diagonal for a class of one image.
    """
    once = np.ones((1, len(labels)))
    return np.asarray(ratio(_pair_sums(between, labels, once), _pair_counts(labels, once))[0])


def separation_ratio(between: Floats, labels: Labels, weights: Floats) -> Floats:
    """Compute mean between-class / mean within-class distance over all pairs of images, (B,); 1: no separation."""
    sums, pairs = _pair_sums(between, labels, weights), _pair_counts(labels, weights)
    diagonal = np.eye(sums.shape[-1], dtype=bool)
    inside = ratio(sums[:, diagonal].sum(axis=1), pairs[:, diagonal].sum(axis=1))
    return ratio(ratio(sums[:, ~diagonal].sum(axis=1), pairs[:, ~diagonal].sum(axis=1)), inside)


def calinski_harabasz(products: Floats, labels: Labels, weights: Floats) -> Floats:
    """Compute the Calinski-Harabasz index, (B,), from inner products (N, N); higher is better.

    Calinski and Harabasz, Commun. Stat. 3 (1974) 1.
    """
    sums, total = _pair_sums(products, labels, weights), weights.sum(axis=1)
    size = weights @ _one_hot(labels)
    explained = ratio(np.diagonal(sums, axis1=1, axis2=2), size).sum(axis=1)
    within = weights @ products.diagonal() - explained
    spread = explained - sums.sum(axis=(1, 2)) / total
    classes = size.shape[1]
    return ratio(spread * (total - classes), within * (classes - 1))


def davies_bouldin(products: Floats, labels: Labels, weights: Floats) -> Floats:
    """Compute the Davies-Bouldin index, (B,), from inner products (N, N); lower is better.

    It is the mean over classes of the worst (scatter + scatter) / distance of centroids.
    Davies and Bouldin, IEEE TPAMI 1 (1979) 224.
    """
    member = _one_hot(labels)
    size = weights @ member
    centre = ratio(_class_sums(products, labels, weights), size[..., None])  # (B, K, N): centroid times image
    inner = ratio((centre * weights[:, None, :]) @ member, size[:, None, :])  # (B, K, K): centroid times centroid
    norm = np.diagonal(inner, axis1=1, axis2=2)
    apart = np.sqrt(np.maximum(0.0, norm[:, :, None] + norm[:, None, :] - 2 * inner))
    away = np.sqrt(np.maximum(0.0, products.diagonal() - 2 * centre + norm[..., None]))  # of images from centroids
    scatter = ratio(np.einsum("bkn,bn,nk->bk", away, weights, member), size)
    worst = ratio(scatter[:, :, None] + scatter[:, None, :], apart)
    diagonal = np.eye(size.shape[1], dtype=bool)
    return np.asarray(np.where(diagonal, -np.inf, worst).max(axis=2).mean(axis=1))


def silhouettes_within(between: Floats, labels: Labels, within: Labels) -> Floats:
    """Compute the silhouette (N,) of each image among those with the same value in `within` (N,).

    `between` (N, N) are distances. NaN if all of them have one label, or all different ones.
    """
    scores = np.full(len(labels), np.nan)
    for value in np.unique(within):
        rows = np.flatnonzero(within == value)
        if 2 <= len(np.unique(labels[rows])) < len(rows):
            scores[rows] = silhouette_samples(between[np.ix_(rows, rows)], labels[rows], metric="precomputed")
    return scores


def predict_by_linear_probe(
    embeddings: ArrayLike, labels: Labels, groups: ArrayLike, folds: int, seed: int = 0
) -> Labels:
    """Predict the class of each image by logistic regression on the images of the other folds, (N,).

    Features are standardised in each fold, the penalty is L2 with C = 1; a group stays in one fold. Every class needs
    at least `folds` groups; if groups mix classes, training folds may contain a single class, which is then predicted.
    """
    learner: Any = LogisticRegression(max_iter=1000)  # type: ignore[no-untyped-call]
    model = make_pipeline(StandardScaler(), learner)  # type: ignore[no-untyped-call]
    split: Any = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)  # type: ignore[no-untyped-call]
    features, predicted = np.asarray(embeddings), np.empty_like(labels)
    # the matrices are so small that threads mostly wait for each other
    with threadpool_limits(1, "blas"):  # type: ignore[no-untyped-call]
        for train, test in split.split(features, labels, np.asarray(groups)):
            known = labels[train]
            several = (known != known[0]).any()
            predicted[test] = model.fit(features[train], known).predict(features[test]) if several else known[0]
    return predicted


def permute_labels(
    labels: Labels, groups: ArrayLike, generator: np.random.Generator, within: ArrayLike | None = None
) -> Labels:
    """Permute the labels (N,) between groups: each group gets the shuffled labels of another one.

    A group that mixes labels passes on its mix; labels are dropped or repeated to fit the size of the other group. With
    `within` (N,), labels are permuted only among images with the same value.
    """
    member = np.unique(np.asarray(groups), return_inverse=True)[1]
    strata = np.zeros(len(labels)) if within is None else np.asarray(within)
    permuted = labels.copy()
    for stratum in np.unique(strata):
        there = np.flatnonzero(strata == stratum)
        parts = [there[member[there] == group] for group in np.unique(member[there])]
        for target, source in zip(parts, generator.permutation(len(parts)), strict=True):
            permuted[target] = np.resize(generator.permutation(labels[parts[source]]), len(target))
    return permuted


def _one_hot(labels: Labels) -> Floats:
    return np.asarray(labels[:, None] == np.unique(labels), dtype=np.float64)


def _class_sums(kernel: Floats, labels: Labels, weights: Floats) -> Floats:
    """Sum each column of a kernel (N, N) over the rows of each class, weighted, (B, K, N)."""
    rows = [np.flatnonzero(column) for column in _one_hot(labels).T]
    return np.stack([weights[:, members] @ kernel[members] for members in rows], axis=1)


def _pair_sums(kernel: Floats, labels: Labels, weights: Floats) -> Floats:
    """Sum a kernel (N, N) over the pairs of images of all pairs of classes, weighted, (B, K, K)."""
    return np.asarray((_class_sums(kernel, labels, weights) * weights[:, None, :]) @ _one_hot(labels))


def _pair_counts(labels: Labels, weights: Floats) -> Floats:
    """Count the weighted pairs of images of all pairs of classes, without self-pairs, (B, K, K)."""
    member = _one_hot(labels)
    size = weights @ member
    self_pairs = (weights**2) @ member
    return np.asarray(size[:, :, None] * size[:, None, :] - self_pairs[:, :, None] * np.eye(member.shape[1]))
