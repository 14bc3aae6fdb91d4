"""Test whether a confusion matrix is explained by another order of the classes."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm

from avatar_bench.metrics.paired_tests import holm, mcnemar

Floats = NDArray[np.float64]


def find_class_permutation(confusion: ArrayLike, minimum: int = 10, alpha: float = 0.001) -> tuple[int, ...] | None:
    """Find the permutation of class names that explains a confusion matrix significantly better; None if there is none.

    `confusion` (C, C) counts images, targets by predictions; `perm[i]` of the result is the true meaning of prediction
    i. A permutation must be more accurate by McNemar's exact test, and by more than for random predictions with the
    same class frequencies: a network that predicts one class too often can pass the first test alone if that class is
    rare or absent. Corrected for all C! - 1 permutations (Holm; above 6 classes the best one, Bonferroni). None if
    fewer than two classes have `minimum` images.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    if (counts.sum(axis=1) >= minimum).sum() < 2:
        return None
    candidates = _reorderings(counts)
    p = np.array([_reordering_p(counts, perm) for perm in candidates])
    adjusted = holm(p) if len(counts) <= 6 else p * (math.factorial(len(counts)) - 1)
    winners = [perm for perm, chance in zip(candidates, adjusted, strict=True) if chance < alpha]

    def rank(perm: tuple[int, ...]) -> tuple[int, int]:
        """Return the number of correct predictions under a permutation, and of classes that keep their names."""
        return int(counts[list(perm), range(len(perm))].sum()), sum(i == target for i, target in enumerate(perm))

    return max(winners, key=rank, default=None)


def _reorderings(counts: NDArray[np.int64]) -> list[tuple[int, ...]]:
    size = len(counts)
    identity = tuple(range(size))
    if size <= 6:
        return [perm for perm in permutations(identity) if perm != identity]
    # half an image in favour of the original names breaks ties, and nothing else
    gain = counts.T + np.eye(size) / (2 * size)
    best = tuple(int(target) for target in linear_sum_assignment(gain, maximize=True)[1])
    return [] if best == identity else [best]


def _reordering_p(counts: NDArray[np.int64], perm: tuple[int, ...]) -> float:
    gain = np.zeros(counts.shape)  # gain of an image of this target and prediction by the reordering
    for i, target in enumerate(perm):
        gain[i, i] -= 1
        gain[target, i] += 1
    named, reordered = int(counts[gain < 0].sum()), int(counts[gain > 0].sum())
    if reordered <= named:
        return 1.0
    return max(mcnemar(named, reordered), _association_p(counts, gain))


def _association_p(counts: NDArray[np.int64], gain: Floats) -> float:
    """Compute the one-sided p-value of a total gain if predictions were assigned to images at random.

    Mean and variance are exact; Hoeffding, Ann. Math. Stat. 22 (1951) 558.
    """
    total, targets, predictions = counts.sum(), counts.sum(axis=1), counts.sum(axis=0)
    by_target, by_prediction = gain @ predictions / total, targets @ gain / total
    mean = targets @ by_target
    centred = gain - by_target[:, None] - by_prediction + mean / total
    variance = targets @ centred**2 @ predictions / (total - 1)
    excess = (counts * gain).sum() - mean
    return float(norm.sf(excess / math.sqrt(variance))) if variance > 1e-9 else 1.0
