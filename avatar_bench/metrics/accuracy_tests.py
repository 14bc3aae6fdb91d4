"""Tests of the accuracy of one classifier: against guessing, in slices of the set, under another order of classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import permutations
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are used
from numpy.typing import ArrayLike, NDArray

from avatar_bench.metrics import stats
from avatar_bench.metrics.paired_tests import holm, mcnemar
from avatar_bench.metrics.units import LEAST_UNITS

Floats = NDArray[np.float64]
_CHUNK_ELEMENTS = 4_000_000  # keys in memory at once: 32 MB
_ROUNDING = 1e-9  # of a number of images


class PermutedAccuracies(NamedTuple):
    """Accuracies of J slices, as observed (J,) and in B permutations of correctness (B, J).

    `centre` and `spread` (J,) are the exact mean and standard deviation over all permutations, not over those drawn.
    """

    observed: Floats
    drawn: Floats
    centre: Floats
    spread: Floats


def slice_accuracies(
    correct: ArrayLike, strata: ArrayLike, units: ArrayLike, members: ArrayLike, draws: int, seed: int = 0
) -> PermutedAccuracies:
    """Compute the accuracy of each slice, and under permutations of correctness.

    `correct` (N,) bool; `members` (N, J) bool, the images of each slice, none empty; `strata` (N,) are true classes.
    The accuracies of whole units, sources or groups, are permuted among the units of a class, so that the images of a
    unit count as one observation. Where a slice has a part of a unit, what that part differs from the whole changes its
    sign at random, for all slices alike.
    """
    member, hit = np.asarray(members, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    pairs = np.stack([np.unique(np.asarray(part), return_inverse=True)[1] for part in (strata, units)], axis=1)
    kinds, unit = np.unique(pairs, axis=0, return_inverse=True)
    rate = np.bincount(unit, hit) / np.bincount(unit)
    weight, parts = np.zeros((2, len(kinds), member.shape[1]))
    np.add.at(weight, unit, member)
    np.add.at(parts, unit, member * (hit - rate[unit])[:, None])
    parts[np.abs(parts) < _ROUNDING] = 0
    total = weight.sum(axis=0)  # divide last: rounded fractions would not always add up to 1
    generator, step, dealt = np.random.default_rng(seed), max(1, _CHUNK_ELEMENTS // len(kinds)), []
    for start in range(0, draws, step):
        keys = generator.random((min(step, draws - start), len(kinds)))
        # the units are sorted by stratum, so that these orders permute them within their strata
        shuffled = rate[np.argsort(kinds[:, 0] + keys, axis=1)] @ weight
        if parts.any():
            shuffled += generator.choice((-1.0, 1.0), keys.shape) @ parts
        dealt.append(shuffled / total)
    centre, variance = np.zeros(len(total)), (parts**2).sum(axis=0)
    for stratum in np.unique(kinds[:, 0]):
        rates, weights = rate[kinds[:, 0] == stratum], weight[kinds[:, 0] == stratum]
        centre += rates.mean() * weights.sum(axis=0)
        # with n units: the sums of squares of both, over n - 1
        variance += len(rates) * rates.var() * len(rates) * weights.var(axis=0) / max(1, len(rates) - 1)
    observed = (rate @ weight + parts.sum(axis=0)) / total
    return PermutedAccuracies(observed, np.concatenate(dealt), centre / total, np.sqrt(variance) / total)


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


def guessing_level(targets: ArrayLike) -> float | None:
    """Return the expected balanced accuracy of predictions made without the image: 1 over the number of classes.

    Such predictions, constant or random, predict class c with a probability p_c that does not depend on the true class.
    Their recalls are p_c, whose mean over the C classes present in `targets` (N,) is at most 1/C. None if fewer than
    two classes are present.
    """
    present = len(np.unique(np.asarray(targets)))
    return 1 / present if present > 1 else None


def beats_guessing(
    value: float, low: float | None, units: int, guessing: float | None, level: float = 0.95
) -> bool | None:
    """Return whether the interval of a balanced accuracy lies above the guessing level; None without a level.

    Of fewer than LEAST_UNITS it is None too: their interval is too uncertain. `low` is its lower end. If it is None,
    since all resamples agree (a constant or a perfect predictor), Wilson's interval over the independent `units` is
    used, as in `stats.proportion_interval`.
    """
    if guessing is None or units < LEAST_UNITS:
        return None
    end = stats.wilson(units * value, units, level)[0] if low is None else low
    return bool(end > guessing + 1e-9)  # tolerance for rounding


def find_better_than_guessing(
    tests: Sequence[Callable[[float], bool | None]], level: float = 0.95
) -> list[bool | None]:
    """Return which of several predictors beat guessing, by Holm's method (see `paired_tests.holm`).

    Each test maps a level to whether the interval of a predictor at this level lies above guessing, None if unknown.
    """
    outcomes: list[bool | None] = [False] * len(tests)
    while True:
        corrected = 1 - (1 - level) / max(1, outcomes.count(False))
        better = [test(corrected) for test in tests]
        if better == outcomes:
            return outcomes
        outcomes = better


def widen_low(value: float, low: float, level: float) -> float:
    """Return the lower end at a higher level of an interval at 95 %, as of a normal distribution."""
    factor = NormalDist().inv_cdf((1 + level) / 2) / NormalDist().inv_cdf(0.975)
    return value - (value - low) * factor


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
    best = tuple(int(target) for target in scipy.optimize.linear_sum_assignment(gain, maximize=True)[1])
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
    return float(scipy.stats.norm.sf(excess / math.sqrt(variance))) if variance > 1e-9 else 1.0
