"""Confidence intervals, tests and power, as pure functions on arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, linear_sum_assignment
from scipy.stats import binom, binomtest, norm

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

_CHUNK_ELEMENTS = 4_000_000  # weights in memory at once: 32 MB
_MAX_EXACT_IMAGES = 300_000  # above, the normal approximation of the power is accurate to 1 %


class Interval(NamedTuple):
    """Confidence interval, with its number of independent units and its method."""

    low: float
    high: float
    n: int
    method: str


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's score interval of a proportion; (0, 1) if n is 0.

    Successes may be fractional, for groups with mixed outcomes. Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    if n == 0:
        return 0.0, 1.0
    z2 = float(norm.isf((1 - level) / 2)) ** 2
    centre = (successes + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (successes * (n - successes) / n + z2 / 4)) / (n + z2)
    # at the edges the formula yields 0 and 1 up to rounding, which could exclude the proportion itself
    return (max(0.0, centre - half) if successes > 0 else 0.0), (min(1.0, centre + half) if successes < n else 1.0)


def bootstrap_interval(
    statistic: Statistic, groups: ArrayLike, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[Floats, Floats]:
    """Compute the percentile bootstrap interval of a statistic, resampling whole groups.

    `statistic` maps weights (B, N), the counts of each image in B resamples, to (B,) or to (B, K) for K values at once;
    `groups` (N,) are labels. Both ends have shape () or (K,). Resamples with a NaN value (a class was not drawn) are
    ignored; NaN if all are.
    """
    return percentiles(resample_statistic(statistic, groups, resamples, seed), level)


def resample_statistic(statistic: Statistic, groups: ArrayLike, resamples: int = 2000, seed: int = 0) -> Floats:
    """Compute a statistic of each bootstrap resample, (B,) or (B, K).

    The draws of groups depend on `groups`, `resamples` and `seed` alone, so that statistics of two calls are paired.
    """
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    return np.concatenate([statistic(weights) for weights in _resampled_weights(member, resamples, seed)])


def percentiles(drawn: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Compute the central interval at a level of resamples (B,) or (B, K), ignoring NaN; NaN if all are NaN."""
    usable = ~np.isnan(drawn).all(axis=0)
    # nanquantile warns about a column of NaN; such columns are replaced by zeros and masked afterwards
    ends = np.nanquantile(np.where(usable, drawn, 0.0), [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = np.where(usable, ends, np.nan)
    return low, high


def proportion_interval(
    hits: ArrayLike,
    groups: ArrayLike,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    unit: str = "group",
) -> Interval:
    """Compute the interval of the proportion of hits (N,) bool among images in groups (N,); N is at least 1.

    Wilson's interval if every group has one image, else a bootstrap over groups. If all resamples agree (all images
    agree, or there is one group), Wilson's interval over the groups is used instead. `n` is the number of groups.
    """
    hit = np.asarray(hits, dtype=np.float64)
    units = len(np.unique(np.asarray(groups)))
    if units == len(hit):
        return Interval(*wilson(int(hit.sum()), units, level), units, "wilson")
    low, high = bootstrap_interval(lambda w: w @ hit / w.sum(axis=1), groups, resamples, level, seed)
    if not low < high:
        return Interval(*wilson(units * float(hit.mean()), units, level), units, f"wilson by {unit}")
    return Interval(float(low), float(high), units, f"bootstrap by {unit}")


def weighted_moments(weights: Floats, values: NDArray[np.floating], parts: ArrayLike) -> tuple[Floats, Floats]:
    """Compute the weighted mean and standard deviation, both (B, K), of values (N,) in each of K parts.

    `weights` (B, N) are those of resamples, `parts` (N, K) are 0/1 memberships. NaN if nothing is drawn; the deviation
    of a single value is NaN too.
    """
    member, centre = np.asarray(parts, dtype=np.float64), values.mean()
    total, drawn = weights @ member, (weights > 0) @ member
    sums = [weights @ (member * (values - centre)[:, None] ** power) for power in (1, 2)]
    first, second = (np.divide(one, total, out=np.full(total.shape, np.nan), where=total > 0) for one in sums)
    return first + centre, np.sqrt(np.where(drawn > 1, np.maximum(second - first**2, 0), np.nan))


def difference_interval(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float]:
    """Compute the interval of a - b for independent estimates, each (value, low, high) at the same level.

    For two proportions with Wilson's intervals it is Newcombe's hybrid score interval (Stat. Med. 17 (1998) 873, method
    10); otherwise Zou and Donner's recovery of variances (Stat. Med. 27 (2008) 1693).
    """
    difference = a[0] - b[0]
    return difference - math.hypot(a[0] - a[1], b[2] - b[0]), difference + math.hypot(a[2] - a[0], b[0] - b[1])


def mcnemar(only_a: int, only_b: int) -> float:
    """Compute the exact two-sided p-value of McNemar's test that two classifiers are equally accurate.

    `only_a` and `only_b` count the images that only one classifies correctly; 1.0 if there are none.
    """
    discordant = only_a + only_b
    return float(binomtest(only_a, discordant).pvalue) if discordant else 1.0


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p-values (M,) for M tests by Holm's step-down method; Scand. J. Stat. 6 (1979) 65."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def detectable_difference(n: int, discordance: float, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """Compute the smallest difference in accuracy that an exact two-sided McNemar test on n images detects.

    `discordance`, 0 to 1, is the proportion of images that exactly one of the two classifies correctly; their number is
    binomial, and the test's power is averaged over it. None if even a difference of `discordance` is detected with less
    than `power`.
    """
    if n < 1 or discordance <= 0:
        return None
    if mcnemar_power(n, discordance, discordance, alpha) < power:
        return None
    return float(brentq(lambda d: mcnemar_power(n, discordance, d, alpha) - power, 0.0, discordance, xtol=1e-9))


def mcnemar_power(n: int, discordance: float, difference: float, alpha: float = 0.05) -> float:
    """Compute the power of an exact two-sided McNemar test on n images, 0 to 1.

    `difference` in accuracy lies between 0 and `discordance`.
    """
    spread = 10 * math.sqrt(n * discordance) + 10  # the tails beyond have a probability below 1e-20
    pairs = np.arange(max(0, int(n * discordance - spread)), min(n, int(n * discordance + spread)) + 1)
    critical = binom.ppf(alpha / 2, pairs, 0.5)
    critical = np.where(binom.cdf(critical, pairs, 0.5) > alpha / 2, critical - 1, critical)
    better = (1 + difference / discordance) / 2
    rejects = binom.cdf(critical, pairs, better) + binom.sf(pairs - critical - 1, pairs, better)
    return float(binom.pmf(pairs, n, discordance) @ rejects)


def required_sample_size(discordance: float, difference: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Compute the number of images an exact two-sided McNemar test needs to detect a difference in accuracy.

    It inverts `mcnemar_power`: `discordance` is the proportion of images that exactly one of two classifiers classifies
    correctly, and the sign of `difference`, at most as large, is ignored. Above 300,000 images it is the normal
    approximation; Connor, Biometrics 43 (1987) 207. None if there is no difference.
    """
    apart = min(abs(difference), discordance)
    if apart <= 0:
        return None
    chance, miss = float(norm.isf(alpha / 2)), float(norm.isf(1 - power))
    enough = math.ceil(((chance * math.sqrt(discordance) + miss * math.sqrt(discordance - apart**2)) / apart) ** 2)
    if enough > _MAX_EXACT_IMAGES:
        return enough
    while mcnemar_power(enough, discordance, apart, alpha) < power:
        enough *= 2
    too_few = 0
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        is_enough = mcnemar_power(middle, discordance, apart, alpha) >= power
        too_few, enough = (too_few, middle) if is_enough else (middle, enough)
    return enough


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
    return max(winners, key=lambda perm: (_count_correct(counts, perm), _count_unchanged(perm)), default=None)


def _resampled_weights(member: NDArray[np.integer], resamples: int, seed: int) -> Iterator[Floats]:
    generator = np.random.default_rng(seed)
    size = int(member.max()) + 1
    step = max(1, _CHUNK_ELEMENTS // len(member))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
        yield counts.astype(np.float64)[:, member]


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


def _count_correct(counts: NDArray[np.int64], perm: tuple[int, ...]) -> int:
    return int(counts[list(perm), range(len(perm))].sum())


def _count_unchanged(perm: tuple[int, ...]) -> int:
    return sum(i == target for i, target in enumerate(perm))
