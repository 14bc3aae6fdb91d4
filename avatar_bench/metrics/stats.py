"""Intervals, tests and detectable effects, as pure functions on arrays."""

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

_CHUNK_ELEMENTS = 4_000_000  # weights held at once: 32 MB
_MAX_EXACT_IMAGES = 300_000  # images, for which the exact power and its normal approximation agree to a hundredth


class Interval(NamedTuple):
    """Hold the ends of an interval, how many independent units it rests on, and how it was made."""

    low: float
    high: float
    n: int
    method: str


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Give Wilson's score interval of a proportion; (0, 1) where n is 0.

    Successes may be a fraction, of groups whose images do not all agree. Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    if n == 0:
        return 0.0, 1.0
    z2 = float(norm.isf((1 - level) / 2)) ** 2
    centre = (successes + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (successes * (n - successes) / n + z2 / 4)) / (n + z2)
    # at the edges the formula gives 0 and 1 but for rounding, which may leave the proportion itself outside
    return (max(0.0, centre - half) if successes > 0 else 0.0), (min(1.0, centre + half) if successes < n else 1.0)


def bootstrap_interval(
    statistic: Statistic, groups: ArrayLike, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[Floats, Floats]:
    """Give the percentile interval of a statistic when whole groups are drawn with replacement.

    `statistic` maps weights (B, N), how often each image was drawn in each of B resamples, to (B,) or to (B, K)
    for K figures at once; `groups` (N,) are labels. Both ends have shape () or (K,). Resamples in which a figure
    is NaN (a class was not drawn) are left out of it; NaN where all are.
    """
    return percentiles(resample_statistic(statistic, groups, resamples, seed), level)


def resample_statistic(statistic: Statistic, groups: ArrayLike, resamples: int = 2000, seed: int = 0) -> Floats:
    """Give a statistic of each resample, (B,) or (B, K): what `bootstrap_interval` takes its interval from.

    The draws of groups depend on `groups`, `resamples` and `seed` alone, so that statistics of two calls are paired.
    """
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    return np.concatenate([statistic(weights) for weights in _resampled_weights(member, resamples, seed)])


def percentiles(drawn: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Give the ends of the middle `level` of resamples (B,) or (B, K), those that are NaN left out; NaN if all are."""
    usable = ~np.isnan(drawn).all(axis=0)
    # A column without any figure would make nanquantile warn; zeros stand in for it and are masked again.
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
    """Give the interval of the share of hits (N,) bool among images in groups (N,); N is at least 1.

    Wilson where every group has one image, else a bootstrap of whole groups. Where every resample gives the
    same share (all images agree, there is one group), they say nothing, so Wilson counts the groups instead. `n` is the
    number of groups.
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
    """Return the weighted mean and standard deviation, both (B, K), of values (N,) in each of K parts.

    `weights` (B, N) are those of resamples, `parts` (N, K) say by 1 or 0 what is in a part. NaN where nothing is drawn,
    and as the deviation of a single value.
    """
    member, centre = np.asarray(parts, dtype=np.float64), values.mean()
    total, drawn = weights @ member, (weights > 0) @ member
    sums = [weights @ (member * (values - centre)[:, None] ** power) for power in (1, 2)]
    first, second = (np.divide(one, total, out=np.full(total.shape, np.nan), where=total > 0) for one in sums)
    return first + centre, np.sqrt(np.where(drawn > 1, np.maximum(second - first**2, 0), np.nan))


def difference_interval(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float]:
    """Return the interval of a minus b, two independent estimates, each (value, low, high) of one level.

    Of two proportions with Wilson's intervals it is Newcombe's hybrid score interval (Stat. Med. 17 (1998) 873, method
    10); of others Zou and Donner's recovery of variances (Stat. Med. 27 (2008) 1693).
    """
    difference = a[0] - b[0]
    return difference - math.hypot(a[0] - a[1], b[2] - b[0]), difference + math.hypot(a[2] - a[0], b[0] - b[1])


def mcnemar(only_a: int, only_b: int) -> float:
    """Give the exact two-sided p-value that two classifiers are right equally often.

    `only_a` and `only_b` count the images that one alone has right; 1.0 where there are none.
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
    """Give the smallest difference in accuracy that an exact two-sided McNemar test on n images finds.

    `discordance`, 0 to 1, is the share of images that exactly one of the two classifiers has right; their number
    is binomial, and the test's power is summed over it. None where even a difference as large as `discordance`
    is found with less than `power`.
    """
    if n < 1 or discordance <= 0:
        return None
    if mcnemar_power(n, discordance, discordance, alpha) < power:
        return None
    return float(brentq(lambda d: mcnemar_power(n, discordance, d, alpha) - power, 0.0, discordance, xtol=1e-9))


def mcnemar_power(n: int, discordance: float, difference: float, alpha: float = 0.05) -> float:
    """Give the chance that an exact two-sided McNemar test on n images rejects, 0 to 1.

    `difference` in accuracy lies between 0 and `discordance`.
    """
    spread = 10 * math.sqrt(n * discordance) + 10  # what lies beyond has a chance below 1e-20
    pairs = np.arange(max(0, int(n * discordance - spread)), min(n, int(n * discordance + spread)) + 1)
    critical = binom.ppf(alpha / 2, pairs, 0.5)
    critical = np.where(binom.cdf(critical, pairs, 0.5) > alpha / 2, critical - 1, critical)
    better = (1 + difference / discordance) / 2
    rejects = binom.cdf(critical, pairs, better) + binom.sf(pairs - critical - 1, pairs, better)
    return float(binom.pmf(pairs, n, discordance) @ rejects)


def required_sample_size(discordance: float, difference: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Give the least number of images on which an exact two-sided McNemar test finds a difference in accuracy.

    It inverts `mcnemar_power`: `discordance` is the share of images that exactly one of two classifiers has right,
    `difference`, at most as large, is taken without its sign. Above 300,000 images it is the normal approximation;
    Connor, Biometrics 43 (1987) 207. None where there is no difference.
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
        found = mcnemar_power(middle, discordance, apart, alpha) >= power
        too_few, enough = (too_few, middle) if found else (middle, enough)
    return enough


def find_class_permutation(confusion: ArrayLike, minimum: int = 10, alpha: float = 0.001) -> tuple[int, ...] | None:
    """Give the reordering of class names that explains a confusion matrix significantly better, or None.

    `confusion` (C, C) counts images, targets by predictions; in the answer `perm[i]` is the class that prediction i
    really means. A reordering must be right more often by McNemar's exact test, and by more than any network gains
    that predicts each class as often but blindly: one that leans to a single class meets the first alone where that
    class is rare or absent. Corrected for all C! - 1 reorderings (Holm; above 6 classes the best one, Bonferroni).
    None where fewer than two classes have `minimum` images.
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
    # Half an image in favour of the names as they stand decides between equals, and only there.
    gain = counts.T + np.eye(size) / (2 * size)
    best = tuple(int(target) for target in linear_sum_assignment(gain, maximize=True)[1])
    return [] if best == identity else [best]


def _reordering_p(counts: NDArray[np.int64], perm: tuple[int, ...]) -> float:
    gain = np.zeros(counts.shape)  # what an image of this target and prediction gains by the reordering
    for i, target in enumerate(perm):
        gain[i, i] -= 1
        gain[target, i] += 1
    named, reordered = int(counts[gain < 0].sum()), int(counts[gain > 0].sum())
    if reordered <= named:
        return 1.0
    return max(mcnemar(named, reordered), _association_p(counts, gain))


def _association_p(counts: NDArray[np.int64], gain: Floats) -> float:
    """Give the one-sided p-value of a total gain if predictions were dealt to images at random.

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
