"""Permutation tests for slices of a data set with lower accuracy than chance explains."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_CHUNK_ELEMENTS = 4_000_000  # keys in memory at once: 32 MB


def slice_accuracies(
    correct: ArrayLike, strata: ArrayLike, groups: ArrayLike, members: ArrayLike, draws: int, seed: int = 0
) -> tuple[Floats, Floats]:
    """Compute the accuracy of each slice, (J,), and under permutations of correctness, (draws, J).

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
    return rate @ weight / total, np.concatenate(dealt)


def max_t_p_values(observed: ArrayLike, null: ArrayLike) -> tuple[Floats, Floats]:
    """Compute two-sided p-values (J,) of J statistics from draws (B, J) under the null, plain and adjusted for J tests.

    The adjustment uses the largest standardised statistic of each draw, which accounts for overlapping slices: Westfall
    and Young, Resampling-Based Multiple Testing (1993). A constant statistic has p = 1.
    """
    drawn = np.asarray(null, dtype=np.float64)
    centre, spread = drawn.mean(axis=0), drawn.std(axis=0)
    spread = np.where(spread > 1e-12, spread, np.inf)
    seen, noise = np.abs(np.asarray(observed) - centre) / spread, np.abs(drawn - centre) / spread
    largest = noise.max(axis=1, keepdims=True)
    plain, adjusted = (((part >= seen - 1e-9).sum(axis=0) + 1) / (len(drawn) + 1) for part in (noise, largest))
    return plain, adjusted
