"""Confidence intervals and the bootstrap, as pure functions on arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import scipy  # loads its parts when they are used
from numpy.typing import ArrayLike, NDArray

from avatar_bench.metrics.units import Units, as_units, encode

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
Bounds = tuple[ArrayLike, ArrayLike]

_CHUNK_ELEMENTS = 4_000_000  # weights in memory at once: 32 MB
_CACHED_ELEMENTS = 100_000
_SMALLEST_VARIANCE = 1e-12  # below, all sources agree up to rounding
_SMALLEST_CHANGE = 1e-10  # of a value without a source
_NEAREST = 3.0  # the least factor with which intervals of an AUROC hold, by scripts/simulate


def ratio(part: ArrayLike, whole: ArrayLike) -> Floats:
    """Divide arrays, broadcast; NaN where `whole` is not above 0."""
    above, below = np.broadcast_arrays(np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64))
    return np.asarray(np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0))


def nan_mean(values: Floats, axis: int | None = None) -> Floats:
    """Compute the mean without NaN; NaN, without a warning, if all values are NaN."""
    return ratio(np.nansum(values, axis=axis), (~np.isnan(values)).sum(axis=axis))


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
        groups: Any = scipy.sparse.csr_array((np.ones(len(member)), (member, np.arange(len(member)))))
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


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's score interval of a proportion; (0, 1) if n is 0.

    Successes may be fractional, for groups with mixed outcomes, and n an effective number. Wilson, J. Am. Stat. Assoc.
    22 (1927) 209.
    """
    if n == 0:
        return 0.0, 1.0
    tail = (1 - level) / 2
    z2 = float(scipy.stats.norm.isf(tail)) ** 2
    centre = (successes + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (successes * (n - successes) / n + z2 / 4)) / (n + z2)
    # at the edges the formula yields 0 and 1 up to rounding, which could exclude the proportion itself
    return (max(0.0, centre - half) if successes > 0 else 0.0), (min(1.0, centre + half) if successes < n else 1.0)


def bootstrap_interval(
    statistic: Statistic,
    units: Units | ArrayLike,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    bounds: Bounds = (-np.inf, np.inf),
) -> tuple[Floats, Floats]:
    """Compute the bootstrap interval of a statistic, resampling whole units.

    `statistic` maps weights (B, N), the counts of each image in B resamples, to (B,) or to (B, K) for K values at once;
    `units` (N,) are Units, or labels of groups. Both ends have shape () or (K,). Resamples with a NaN value (a class
    was not drawn) are ignored; NaN if all are. Percentiles, widened by `widen_for_few_units` up to the bounds of the
    statistic, and to its value, which those of a biased one may miss.
    """
    sampled = as_units(units)
    ends = percentiles(resample_statistic(statistic, sampled, resamples, seed), level)
    value = statistic(np.ones((1, len(sampled))))[0]
    low, high = widen_for_few_units(*ends, value, sampled.count, sampled.strata_count, level)
    return np.fmin(np.maximum(low, bounds[0]), value + 0 * low), np.fmax(np.minimum(high, bounds[1]), value + 0 * high)


def widen_for_few_units(
    low: ArrayLike, high: ArrayLike, value: ArrayLike, units: int, strata: int = 1, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Widen the percentile interval of a value for few units, which were drawn within strata.

    The percentiles take the variance of the units for that of their population, and errors for normal. Student's
    quantile replaces the normal one, and the variance is divided by its degrees of freedom, units less strata. Davison
    and Hinkley, Bootstrap Methods (1997), sections 2.3 and 3.8.
    """
    factor = compute_student_factor(units, units - strata, level)
    middle, bottom, top = (np.asarray(part, dtype=np.float64) for part in (value, low, high))
    return middle - factor * (middle - bottom), middle + factor * (top - middle)


def compute_student_factor(units: int, freedom: int, level: float = 0.95) -> float:
    """Compute the ratio of Student's interval of a mean to the narrower bootstrap interval of few units; at least 1."""
    if freedom < 1:
        return 1.0
    tail = (1 - level) / 2
    return float(scipy.stats.t.isf(tail, freedom) / scipy.stats.norm.isf(tail) * math.sqrt(units / freedom))


def resample_statistic(statistic: Statistic, units: Units | ArrayLike, resamples: int = 2000, seed: int = 0) -> Floats:
    """Compute a statistic of each bootstrap resample, (B,) or (B, K).

    The draws of units depend on `units`, `resamples` and `seed` alone, so that statistics of two calls are paired.
    Sources are drawn within their strata.
    """
    sampled = as_units(units)
    grouped, step = _by_group(statistic, sampled.codes), max(1, _CHUNK_ELEMENTS // len(sampled))
    strata = None if sampled.strata_of_units is None else tuple(sampled.strata_of_units.tolist())
    if resamples * sampled.count <= _CHUNK_ELEMENTS:
        rows = iter(_draw_once(sampled.count, strata, resamples, seed))
    else:
        rows = _draw_counts(sampled.count, strata, resamples, seed)
    parts = []
    while chunk := list(islice(rows, step)):
        parts.append(grouped(np.stack(chunk).astype(np.float64)))
    return np.concatenate(parts)


def _draw_counts(
    count: int, strata: tuple[int, ...] | None, resamples: int, seed: int
) -> Iterator[NDArray[np.unsignedinteger]]:
    """Yield how often each of `count` units is in each resample, (U,); the units of a stratum are neighbours."""
    generator = np.random.default_rng(seed)
    lows: Any = 0
    highs: Any = count
    if strata is not None:
        ends = np.append(0, np.bincount(strata).cumsum())
        lows, highs = ends[np.array(strata)], ends[np.array(strata) + 1]
    # one at a time, so that the counts of many units stay in the processor's cache
    for _ in range(resamples):
        yield np.bincount(generator.integers(lows, highs, count), minlength=count).astype(np.min_scalar_type(count))


@lru_cache(maxsize=8)  # blocks compute many statistics of the same images
def _draw_once(count: int, strata: tuple[int, ...] | None, resamples: int, seed: int) -> NDArray[np.unsignedinteger]:
    return np.stack(list(_draw_counts(count, strata, resamples, seed)))


def percentiles(drawn: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Compute the central interval at a level of resamples (B,) or (B, K), ignoring NaN; NaN if all are NaN."""
    usable = ~np.isnan(drawn).all(axis=0)
    # nanquantile warns about a column of NaN; such columns are replaced by zeros and masked afterwards
    ends = np.nanquantile(np.where(usable, drawn, 0.0), [(1 - level) / 2, (1 + level) / 2], axis=0)
    low, high = np.where(usable, ends, np.nan)
    return low, high


def build_mean_statistic(values: NDArray[np.generic]) -> SumStatistic:
    """Return the weighted means of K columns (N, K), numbers or bool, as a statistic; NaN is ignored."""
    value, count = np.asarray(values, dtype=np.float64), values.shape[1]
    columns = np.hstack([np.nan_to_num(value), ~np.isnan(value)])
    return SumStatistic(columns, lambda sums: ratio(sums[..., :count], sums[..., count:]))


def proportion_interval(
    hits: ArrayLike, groups: ArrayLike, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Compute the interval of the proportion of hits (N,) bool among images in groups (N,); N is at least 1.

    Wilson's interval if every group has one image, else a bootstrap over groups. If all resamples agree (all images
    agree, or there is one group), Wilson's interval over the groups is used instead. `n` is the number of groups.
    """
    return proportion_intervals(np.asarray(hits, dtype=np.float64)[:, None], groups, resamples, level, seed)[0]


def proportion_intervals(
    hits: Floats, groups: ArrayLike, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> list[Interval]:
    """Compute the interval of the proportion in each column of hits (N, K), 0 or 1, or NaN for images of no interest.

    Of each column it is that of `proportion_interval`, but for whole resamples of all N images, drawn once for all K;
    of a column without an image, Wilson's (0, 1).
    """
    group = np.asarray(groups)
    lows = highs = np.full(hits.shape[1], np.nan)  # not needed where every group has one image
    if len(np.unique(group)) != len(hits):
        lows, highs = bootstrap_interval(build_mean_statistic(hits), group, resamples, level, seed, (0.0, 1.0))
    intervals = []
    for column, low, high in zip(hits.T, lows, highs, strict=True):
        there = ~np.isnan(column)
        hit, units = column[there], len(np.unique(group[there]))
        if units == len(hit):
            intervals.append(Interval(*wilson(int(hit.sum()), units, level), units, "wilson"))
        elif not low < high:
            intervals.append(Interval(*wilson(units * float(hit.mean()), units, level), units, "wilson by group"))
        else:
            intervals.append(Interval(float(low), float(high), units, "bootstrap by group"))
    return intervals


def proportion_interval_of_sources(
    hits: ArrayLike, units: Units, level: float = 0.95, weights: Floats | None = None
) -> Interval:
    """Compute the interval of the proportion of hits (N,), 0 or 1, or NaN for images of no interest, for new sources.

    Images have `weights` (N,), by default those of the units. Student's interval of the log-odds: the variance is that
    between sources, by linearisation within strata (Cochran, Sampling Techniques (1977), section 6.13), and sources
    that are the only one of their stratum vary as the others do. Where all agree, or all are alone, it is Wilson's,
    with the effective number of sources. `n` is the number of sources with such images.
    """
    hit, weight = np.asarray(hits, dtype=np.float64), units.weights if weights is None else weights
    inside, strata = ~np.isnan(hit), units.strata_of_units
    assert strata is not None
    counted, parts = units.take(inside), np.where(inside, weight, 0.0) / weight[inside].sum()
    value = float((weight * hit)[inside].sum() / weight[inside].sum())
    residuals: Any = np.bincount(units.codes, parts * np.where(inside, hit - value, 0.0), units.count)
    squares, sizes = np.bincount(units.codes, parts, units.count) ** 2, np.bincount(strata)[strata]
    variance = float(sum_squares_in_strata(residuals, strata) * ratio(squares.sum(), squares[sizes > 1].sum()))
    if not variance >= _SMALLEST_VARIANCE:
        effective = 1 / float(squares.sum())
        return Interval(*wilson(effective * value, effective, level), counted.count, "wilson by source")
    spread = np.sqrt(variance) / (value * (1 - value))
    low, high = student_ends(np.array(value), spread, max(1, counted.degrees_of_freedom), level, (0.0, 1.0))
    return Interval(float(low), float(high), counted.count, "logit by source")


def balanced_interval_of_sources(correct: ArrayLike, units: Units, level: float = 0.95) -> Interval:
    """Compute the interval of the mean recall over the classes, for new sources; `correct` (N,) are 0 to 1."""
    strata = encode(units.strata)
    return proportion_interval_of_sources(correct, units, level, units.weights / np.bincount(strata)[strata])


def jackknife_interval(
    statistic: Statistic, units: Units, level: float = 0.95, bounds: Bounds = (-np.inf, np.inf)
) -> tuple[Floats, Floats]:
    """Compute the interval of a statistic for new sources, each end (K,): see `find_jackknife_ends`.

    `statistic` maps weights (B, N) to (B, K). NaN if a class has one source.
    """
    strata = units.strata_of_units
    assert strata is not None
    sizes, step = np.bincount(strata)[strata], max(1, _CHUNK_ELEMENTS // len(units))
    if sizes.min() < 2:
        none = np.full_like(statistic(units.weights[None])[0], np.nan)
        return none, none
    deleted = []
    for start in range(0, units.count, step):  # without a source, the others of its class weigh more
        left = np.arange(start, min(start + step, units.count))
        grown = np.where(strata == strata[left, None], (sizes / (sizes - 1))[left, None], 1.0)
        grown[np.arange(len(left)), left] = 0.0
        deleted.append(statistic(grown[:, units.codes] * units.weights))
    values = statistic(units.weights[None])[0]
    return find_jackknife_ends(values, np.concatenate(deleted), strata, level, bounds)


def find_jackknife_ends(
    values: Floats, deleted: Floats, strata: NDArray[np.integer], level: float, bounds: Bounds
) -> tuple[Floats, Floats]:
    """Find the ends (..., K) of Student's interval of values (..., K), by those without each of U units (..., U, K).

    The variance is that of a jackknife within the strata (U,) of units, on a scale where the bounds of the values are
    out of reach: log-odds between two bounds, the logarithm above a single one. A unit moves a value at most three
    times nearer to a bound: else the only one with errors would move it without end. Where no unit moves a value, its
    interval is Wilson's with the units of the smallest stratum if it lies at one of two bounds, and NaN if not.
    """
    least, most = (np.broadcast_to(np.asarray(end, dtype=np.float64), values.shape) for end in bounds)
    moves = np.zeros(deleted.shape)
    with np.errstate(all="ignore"):
        for bound, sign in ((least, 1), (most, -1)):
            nearer = (deleted - bound[..., None, :]) / (values - bound)[..., None, :]
            moves += np.where(np.isinf(bound)[..., None, :], 0, sign * np.log(np.maximum(nearer, 1 / _NEAREST)))
    plain = (deleted - values[..., None, :]) * (np.isinf(least) & np.isinf(most))[..., None, :]
    spread = np.sqrt(sum_squares_in_strata(np.moveaxis(moves + plain, -1, -2), strata, is_jackknife=True))
    low, high = student_ends(values, spread, max(1, len(strata) - len(np.unique(strata))), level, bounds)
    still = ~(np.abs(deleted - values[..., None, :]).max(axis=-2) > _SMALLEST_CHANGE)
    few = int(np.bincount(strata).min())
    reach = np.where(np.isfinite(least) & np.isfinite(most), (most - least) * (1 - wilson(few, few, level)[0]), np.nan)
    places = [~still, values > most - _SMALLEST_CHANGE, values < least + _SMALLEST_CHANGE]
    low, high = (
        np.select(places, kinds, np.nan) for kinds in ([low, most - reach, least], [high, most, least + reach])
    )
    unknown = np.isnan(deleted).any(axis=-2) | np.isnan(low + high)
    return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)


def sum_squares_in_strata(parts: Floats, strata: NDArray[np.integer], is_jackknife: bool = False) -> Floats:
    """Compute the variance (...) of a sum of the parts (..., U) of units that are drawn within strata (U,).

    Of a jackknife, parts are the changes without each unit.
    """
    sizes, member = np.bincount(strata), np.eye(int(strata.max()) + 1)[strata]
    with np.errstate(invalid="ignore"):  # a part that is not known leaves its sum unknown
        centred = parts - (parts @ member / np.maximum(sizes, 1))[..., strata]
    factor = np.maximum(sizes, 2) / (np.maximum(sizes, 2) - 1)  # a stratum of one unit has no residual
    return np.asarray(centred**2 @ (1 / factor if is_jackknife else factor)[strata])


def student_ends(
    values: Floats, spread: ArrayLike, freedom: int, level: float, bounds: Bounds
) -> tuple[Floats, Floats]:
    """Return the ends of Student's interval of values between bounds; `spread` is the standard error on their scale."""
    least, most = (np.broadcast_to(np.asarray(end, dtype=np.float64), np.shape(values)) for end in bounds)
    half = float(scipy.stats.t.isf((1 - level) / 2, freedom)) * np.asarray(spread)
    with np.errstate(all="ignore"):
        width, grown = most - least, np.exp(half)
        below, above = values - least, most - values
        odds = [least + width * below / (below + above * grown), least + width * below / (below + above / grown)]
        logs = [least + below / grown, least + below * grown]
    kinds = [np.isinf(least), np.isinf(most)]
    linear = [values - half, values + half]
    low, high = (np.select(kinds, [line, log], odd) for line, log, odd in zip(linear, logs, odds, strict=True))
    return low, high


def weighted_moments(weights: Floats, values: NDArray[np.floating], parts: ArrayLike) -> tuple[Floats, Floats]:
    """Compute the weighted mean and standard deviation, both (B, K), of values (N,) in each of K parts.

    `weights` (B, N) are those of resamples, `parts` (N, K) are 0/1 memberships. NaN if nothing is drawn; the deviation
    of a single value is NaN too.
    """
    member, centre = np.asarray(parts, dtype=np.float64), values.mean()
    total, drawn = weights @ member, (weights > 0) @ member
    sums = [weights @ (member * (values - centre)[:, None] ** power) for power in (1, 2)]
    first, second = (ratio(power_sums, total) for power_sums in sums)
    return first + centre, np.sqrt(np.where(drawn > 1, np.maximum(second - first**2, 0), np.nan))


def difference_interval(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float]:
    """Compute the interval of a - b for independent estimates, each (value, low, high) at the same level.

    For two proportions with Wilson's intervals it is Newcombe's hybrid score interval (Stat. Med. 17 (1998) 873, method
    10); otherwise Zou and Donner's recovery of variances (Stat. Med. 27 (2008) 1693).
    """
    difference = a[0] - b[0]
    return difference - math.hypot(a[0] - a[1], b[2] - b[0]), difference + math.hypot(a[2] - a[0], b[0] - b[1])


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


def _by_group(statistic: Statistic, member: NDArray[np.integer]) -> Statistic:
    """Return the statistic of the weights of groups, (B, G), instead of those of images in them."""
    if isinstance(statistic, SumStatistic | OrderStatistic | JoinedStatistic):
        return statistic.by_group(member)
    return lambda counts: statistic(counts.take(member, axis=1))  # many times as fast as indexing
