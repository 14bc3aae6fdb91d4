"""Permutation tests for slices of a data set with lower accuracy than chance explains."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_CHUNK_ELEMENTS = 4_000_000  # keys in memory at once: 32 MB


class PermutedAccuracies(NamedTuple):
    """Accuracies of J slices, as observed (J,) and in B permutations of correctness (B, J).

    `centre` and `spread` (J,) are the exact mean and standard deviation over all permutations, not over those drawn.
    """

    observed: Floats
    drawn: Floats
    centre: Floats
    spread: Floats


def slice_accuracies(
    correct: ArrayLike, strata: ArrayLike, groups: ArrayLike, members: ArrayLike, draws: int, seed: int = 0
) -> PermutedAccuracies:
    """Compute the accuracy of each slice, and under permutations of correctness.

    `correct` (N,) bool; `members` (N, J) bool, the images of each slice, none empty; `strata` (N,) are true classes.
    The accuracies of whole groups are permuted among the groups of a class, and each image gets the accuracy of its
    group, so that dependent images count as one observation.
    """
    member = np.asarray(members, dtype=np.float64)
    pairs = np.stack([np.unique(np.asarray(part), return_inverse=True)[1] for part in (strata, groups)], axis=1)
    kinds, unit = np.unique(pairs, axis=0, return_inverse=True)
    rate = np.bincount(unit, np.asarray(correct, dtype=np.float64)) / np.bincount(unit)
    weight = np.zeros((len(kinds), member.shape[1]))
    np.add.at(weight, unit, member)
    total = weight.sum(axis=0)  # divide last: rounded fractions would not always add up to 1
    generator, step, dealt = np.random.default_rng(seed), max(1, _CHUNK_ELEMENTS // len(kinds)), []
    for start in range(0, draws, step):
        keys = generator.random((min(step, draws - start), len(kinds)))
        # the units are sorted by stratum, so that these orders permute them within their strata
        dealt.append(rate[np.argsort(kinds[:, 0] + keys, axis=1)] @ weight / total)
    centre, spread = _compute_moments(rate, weight, kinds[:, 0])
    return PermutedAccuracies(rate @ weight / total, np.concatenate(dealt), centre / total, spread / total)


def max_t_p_values(accuracies: PermutedAccuracies) -> tuple[Floats, Floats]:
    """Compute two-sided p-values (J,) of J accuracies from their permutations, plain and adjusted for J tests.

    Accuracies are compared by their distance from the exact centre: on both sides of it, equally distant ones are ties,
    which a centre estimated from the draws would break. The adjustment uses the largest standardised distance of each
    draw, which accounts for overlapping slices: Westfall and Young, Resampling-Based Multiple Testing (1993). A
    constant accuracy has p = 1.
    """
    observed, drawn, centre, spread = accuracies
    spread = np.where(spread > 1e-12, spread, np.inf)
    seen, noise = np.abs(observed - centre) / spread, np.abs(drawn - centre) / spread
    largest = noise.max(axis=1, keepdims=True)
    plain, adjusted = (((part >= seen - 1e-9).sum(axis=0) + 1) / (len(drawn) + 1) for part in (noise, largest))
    return plain, adjusted


def _compute_moments(rate: Floats, weight: Floats, strata: NDArray[np.integer]) -> tuple[Floats, Floats]:
    """Compute mean and standard deviation of rate (U,) @ weight (U, J) over all permutations of rate within strata."""
    mean, variance = np.zeros(weight.shape[1]), np.zeros(weight.shape[1])
    for stratum in np.unique(strata):
        rates, weights = rate[strata == stratum], weight[strata == stratum]
        mean += rates.mean() * weights.sum(axis=0)
        # with n units: the sums of squares of both, over n - 1
        variance += len(rates) * rates.var() * len(rates) * weights.var(axis=0) / max(1, len(rates) - 1)
    return mean, np.sqrt(variance)
