"""Confidence intervals and the bootstrap, as pure functions on arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.stats import norm, t

from avatar_bench.metrics.ratios import ratio

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

_CHUNK_ELEMENTS = 4_000_000  # weights in memory at once: 32 MB
_CACHED_ELEMENTS = 100_000


@dataclass(frozen=True)
class SumStatistic:
    """Statistic of the sums of columns (N, K) over the images of a resample: a function of (B, K) to (B,) or (B, L).

    Its resamples cost as much as there are groups, not images, because the sums of each group are known beforehand.
    `columns` are an array or a sparse array.
    """

    columns: Any
    finish: Callable[[Floats], Floats]

    def __call__(self, weights: Floats) -> Floats:
        """Compute the statistic for weights (..., N)."""
        return self.finish(weights @ self.columns)

    def then(self, change: Callable[[Floats], Floats]) -> SumStatistic:
        """Return a function of this statistic."""
        return replace(self, finish=lambda sums: change(self.finish(sums)))

    def by_group(self, member: NDArray[np.integer]) -> SumStatistic:
        """Return the statistic of the weights of groups, (B, G); `member` (N,) are the groups of the images."""
        groups: Any = csr_array((np.ones(len(member)), (member, np.arange(len(member)))))
        return replace(self, columns=groups @ self.columns)


@dataclass(frozen=True)
class OrderStatistic:
    """Statistic of weights in the order of some score: a function of (B, M) to (B,) or (B, K), of images (M,) by index.

    They are sorted once, not for each resample, and each resample is computed for itself, in the processor's cache.
    """

    order: NDArray[np.integer]
    compute: Callable[[Floats], Floats]

    def __call__(self, weights: Floats) -> Floats:
        """Compute the statistic for weights (B, N)."""
        step = max(1, _CACHED_ELEMENTS // max(1, len(self.order)))
        parts = (weights[start : start + step] for start in range(0, len(weights), step))
        return np.concatenate([self.compute(part.take(self.order, axis=1)) for part in parts])

    def by_group(self, member: NDArray[np.integer]) -> OrderStatistic:
        """Return the statistic of the weights of groups, (B, G); `member` (N,) are the groups of the images."""
        return replace(self, order=member[self.order])


@dataclass(frozen=True)
class JoinedStatistic:
    """Statistic of the columns of several ones, (B,) or (B, K) each: a function of (B, K) to (B,) or (B, L)."""

    parts: Sequence[Statistic]
    finish: Callable[[Floats], Floats] = np.asarray

    def __call__(self, weights: Floats) -> Floats:
        """Compute the statistic for weights (B, N)."""
        return self.finish(np.column_stack([part(weights) for part in self.parts]))

    def by_group(self, member: NDArray[np.integer]) -> JoinedStatistic:
        """Return the statistic of the weights of groups, (B, G); `member` (N,) are the groups of the images."""
        return replace(self, parts=[_by_group(part, member) for part in self.parts])


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
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    grouped, step = _by_group(statistic, member), max(1, _CHUNK_ELEMENTS // len(member))
    generator = np.random.default_rng(seed)
    found = []
    for start in range(0, resamples, step):
        # one at a time, so that the counts of many groups stay in the processor's cache
        drawn = (generator.integers(0, len(names), len(names)) for _ in range(min(step, resamples - start)))
        counts = np.stack([np.bincount(each, minlength=len(names)) for each in drawn])
        found.append(grouped(counts.astype(np.float64)))
    return np.concatenate(found)


def percentiles(drawn: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Compute the central interval at a level of resamples (B,) or (B, K), ignoring NaN; NaN if all are NaN."""
    usable = ~np.isnan(drawn).all(axis=0)
    # nanquantile warns about a column of NaN; such columns are replaced by zeros and masked afterwards
    ends = np.nanquantile(np.where(usable, drawn, 0.0), [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = np.where(usable, ends, np.nan)
    return low, high


def widen_for_few_units(
    low: float, high: float, value: float, units: int, strata: int = 1, level: float = 0.95
) -> tuple[float, float]:
    """Widen the percentile interval of a value for few units, which were drawn within strata.

    The percentiles take the variance of the units for that of their population, and errors for normal. Student's
    quantile replaces the normal one, and the variance is divided by its degrees of freedom, units less strata.
    """
    freedom, tail = units - strata, (1 - level) / 2
    factor = float(t.isf(tail, freedom) / norm.isf(tail)) * math.sqrt(units / freedom)
    return value - factor * (value - low), value + factor * (high - value)


def build_mean_statistic(values: NDArray[np.generic]) -> SumStatistic:
    """Return the weighted means of K columns (N, K), numbers or bool, as a statistic; NaN is ignored."""
    value, count = np.asarray(values, dtype=np.float64), values.shape[1]
    columns = np.hstack([np.nan_to_num(value), ~np.isnan(value)])
    return SumStatistic(columns, lambda sums: ratio(sums[..., :count], sums[..., count:]))


def proportion_interval(
    hits: ArrayLike, groups: ArrayLike, resamples: int = 2000, level: float = 0.95, seed: int = 0, unit: str = "group"
) -> Interval:
    """Compute the interval of the proportion of hits (N,) bool among images in groups (N,); N is at least 1.

    Wilson's interval if every group has one image, else a bootstrap over groups. If all resamples agree (all images
    agree, or there is one group), Wilson's interval over the groups is used instead. `n` is the number of groups.
    """
    hit = np.asarray(hits, dtype=np.float64)
    units = len(np.unique(np.asarray(groups)))
    low = high = np.full((), np.nan)  # not needed where every group has one image
    if units != len(hit):
        mean = build_mean_statistic(hit[:, None]).then(np.ravel)
        low, high = bootstrap_interval(mean, groups, resamples, level, seed)
    return _choose_interval(hit, units, low, high, level, unit)


def proportion_intervals(
    hits: Floats, groups: ArrayLike, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> list[Interval]:
    """Compute the interval of the proportion in each column of hits (N, K), 0 or 1, or NaN for images of no interest.

    Of each column it is that of `proportion_interval`, but for whole resamples of all N images, drawn once for all K;
    of a column without an image, Wilson's (0, 1).
    """
    group = np.asarray(groups)
    lows, highs = bootstrap_interval(build_mean_statistic(hits), group, resamples, level, seed)
    found = []
    for place, column in enumerate(hits.T):
        there = ~np.isnan(column)
        units = len(np.unique(group[there]))
        found.append(_choose_interval(column[there], units, lows[place], highs[place], level, "group"))
    return found


def _choose_interval(hit: Floats, units: int, low: Floats, high: Floats, level: float, unit: str) -> Interval:
    """Return the bootstrap interval of a proportion, or Wilson's where it is exact or where all resamples agree."""
    if units == len(hit):
        return Interval(*wilson(int(hit.sum()), units, level), units, "wilson")
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
    first, second = (ratio(one, total) for one in sums)
    return first + centre, np.sqrt(np.where(drawn > 1, np.maximum(second - first**2, 0), np.nan))


def difference_interval(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float]:
    """Compute the interval of a - b for independent estimates, each (value, low, high) at the same level.

    For two proportions with Wilson's intervals it is Newcombe's hybrid score interval (Stat. Med. 17 (1998) 873, method
    10); otherwise Zou and Donner's recovery of variances (Stat. Med. 27 (2008) 1693).
    """
    difference = a[0] - b[0]
    return difference - math.hypot(a[0] - a[1], b[2] - b[0]), difference + math.hypot(a[2] - a[0], b[0] - b[1])


def _by_group(statistic: Statistic, member: NDArray[np.integer]) -> Statistic:
    """Return the statistic of the weights of groups, (B, G), instead of those of images in them."""
    if isinstance(statistic, SumStatistic | OrderStatistic | JoinedStatistic):
        return statistic.by_group(member)
    return lambda counts: statistic(counts.take(member, axis=1))  # many times as fast as indexing


def quantiles(values: ArrayLike, levels: Sequence[float], weights: ArrayLike) -> NDArray[np.float64]:
    """Compute quantiles (B, K) at K levels, 0 to 1, of values (N,) repeated by integer `weights` (B, N).

    Interpolated linearly, as by numpy's default (Hyndman and Fan 1996, type 7), so that 0.5 is
    the median. NaN if all weights are 0.
    """
    value, weight = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    order = np.argsort(value, kind="stable")
    cumulated = weight[:, order].cumsum(axis=1)
    total = cumulated[:, -1:]
    rank = np.asarray(levels) * np.maximum(total - 1, 0)  # zero-based, among the repeated values
    below, above = (
        value[order][np.minimum((cumulated[:, None, :] <= whole[:, :, None]).sum(axis=2), len(value) - 1)]
        for whole in (np.floor(rank), np.ceil(rank))
    )
    return np.where(total > 0, below + (above - below) * (rank - np.floor(rank)), np.nan)
