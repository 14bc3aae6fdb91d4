"""Paired tests of classifiers on the same images, their power, joint resamples, ranks and compact letters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import scipy  # loads its parts when they are used
from numpy.typing import ArrayLike, NDArray

from avatar_bench.metrics import stats
from avatar_bench.metrics.stats import ratio
from avatar_bench.metrics.units import Units, encode

Floats = NDArray[np.float64]

ALPHA = 0.05
_MAX_EXACT_IMAGES = 300_000  # above, the normal approximation of the power is accurate to 1 %


def cluster_permutation_test(gains: ArrayLike, groups: ArrayLike) -> float:
    """Compute the exact two-sided p-value of a sign-flip test of gains (N,) in groups (N,).

    `gains` are integers: 1 if only classifier b is correct, -1 if only a is, or sums of these over seeds. Under the
    null the gain of each whole group changes its sign at random; the distribution of the sum is computed exactly by
    convolution. Pagano and Tritchler, J. Am. Stat. Assoc. 78 (1983) 435. It equals `mcnemar` if all groups have
    gains of equal size.
    """
    summed = sum_by_group(gains, groups)
    sizes, counts = np.unique(np.abs(summed[summed != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    step = np.gcd.reduce(sizes)
    chances = np.ones(1)  # distribution of the sum over groups that keep their sign
    for size, count in zip(sizes // step, counts, strict=True):
        signed = np.zeros(int(size * count) + 1)
        signed[::size] = scipy.stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, signed)
    sums = 2 * np.arange(len(chances)) - (len(chances) - 1)
    return float(min(1.0, chances[np.abs(sums) >= abs(summed.sum()) // step].sum()))


def find_least_p(units: int) -> float:
    """Return the smallest p-value that a sign-flip test of some units can have: all gains have one sign."""
    return min(1.0, 2.0 ** (1 - units))


def sum_by_group(values: ArrayLike, groups: ArrayLike) -> NDArray[np.int64]:
    """Sum integers (N,) by group (N,), in the order of the sorted groups."""
    return np.rint(np.bincount(encode(groups), np.asarray(values, dtype=np.float64))).astype(np.int64)


def design_effect(gains: ArrayLike, groups: ArrayLike) -> float:
    """Compute the design effect of groups, at least 1: how many grouped images carry the information of one.

    It is the variance of the sum of gains by group over that of as many independent images, both about 0: subtract the
    mean gain first where groups are large.
    """
    gain = np.asarray(gains, dtype=np.float64)
    spread = float((gain**2).sum())
    return max(1.0, float((np.bincount(encode(groups), gain) ** 2).sum()) / spread) if spread else 1.0


def resample_groups_and_seeds(
    statistic: stats.Statistic,
    units: Units | ArrayLike,
    members: Sequence[Sequence[int]],
    seeds: Sequence[int],
    resamples: int = 2000,
    seed: int = 0,
) -> Floats:
    """Compute the mean over the runs of each recipe in B resamples, (B, R), of both units and runs.

    `statistic` maps weights (B, N) to (B, runs); `members` are the runs of each recipe and `seeds` (runs,) their
    training seeds. All recipes share the resampled groups, and those with the same seeds the resampled seeds, so that
    columns can be subtracted. Both factors of the crossed design are drawn with replacement; Owen, Ann. Appl. Stat. 1
    (2007) 386.
    """
    by_run = stats.resample_statistic(statistic, units, resamples, seed)
    generator = np.random.default_rng((seed, 1))
    draws: dict[tuple[int, ...], NDArray[np.int64]] = {}
    columns = []
    for runs in members:
        ordered = sorted(runs, key=lambda run: seeds[run])
        size, key = len(ordered), tuple(seeds[run] for run in ordered)
        if key not in draws:
            draws[key] = generator.integers(0, size, (resamples, size))
        columns.append(np.take_along_axis(by_run[:, ordered], draws[key], axis=1).mean(axis=1))
    return np.column_stack(columns)


def resample_units(drawn: Floats, seed: int, units: ArrayLike, classes: ArrayLike) -> Floats:
    """Compute the mean of K values in B resamples (B, K) when their units (K,) are resampled too, (B,).

    All values of a drawn unit count. It is the mean over `classes` (K,) of the means of their values, and units are
    drawn within each stratum; NaN where a class is not drawn.
    """
    unit, kind = encode(units), encode(classes)
    generator, strata = np.random.default_rng((seed, 2)), find_strata(unit, kind)
    weights = np.zeros((len(drawn), unit.max() + 1))
    for stratum in np.unique(strata):
        inside = np.unique(unit[strata == stratum])
        chosen = inside[generator.integers(0, len(inside), (len(drawn), len(inside)))]
        np.add.at(weights, (np.arange(len(drawn))[:, None], chosen), 1)
    weight, member = weights[:, unit], (kind[:, None] == np.unique(kind)).astype(np.float64)
    return np.asarray(ratio((weight * drawn) @ member, weight @ member).mean(axis=1))


def find_strata(units: ArrayLike, classes: ArrayLike) -> NDArray[np.int64]:
    """Return the stratum of each of K values, (K,): its class, joined with the classes that share a unit with it."""
    unit, kind = encode(units), encode(classes)
    first = kind + unit.max() + 1  # the nodes of classes follow those of units
    size = int(first.max()) + 1
    edges = scipy.sparse.coo_array((np.ones(len(unit)), (unit, first)), shape=(size, size))
    return np.asarray(scipy.sparse.csgraph.connected_components(edges, directed=False)[1][unit], dtype=np.int64)


def ranks(values: ArrayLike) -> NDArray[np.int64]:
    """Rank values (..., R), 1 for the largest; ties share the better rank."""
    value = np.asarray(values, dtype=np.float64)
    # tolerance for rounding
    return np.asarray(1 + (value[..., None, :] > value[..., :, None] + 1e-12).sum(axis=-1))


def find_tie_groups(apart: ArrayLike) -> list[tuple[int, ...]]:
    """Return the maximal groups without a significant difference; `apart` (R, R) is symmetric and bool.

    Each is one letter of a compact letter display, by insertion and absorption; Piepho, J. Comput. Graph. Stat. 13
    (2004) 456. Groups are sorted by their first members.
    """
    significant = np.asarray(apart, dtype=bool)
    maximal = [frozenset(range(len(significant)))]
    for a, b in combinations(range(len(significant)), 2):
        if significant[a, b]:
            divided = {group - {member} if {a, b} <= group else group for group in maximal for member in (a, b)}
            maximal = [group for group in divided if not any(group < other for other in divided)]
    return sorted(tuple(sorted(group)) for group in maximal)


def assign_letters(groups: Sequence[Sequence[int]], size: int) -> list[str]:
    """Return the letters of the groups of each of `size` members: a, b, ..., z, a2, b2, ..."""
    names = [
        chr(ord("a") + number % 26) + (str(number // 26 + 1) if number >= 26 else "") for number in range(len(groups))
    ]
    return ["".join(name for name, group in zip(names, groups, strict=True) if i in group) for i in range(size)]


def mcnemar(only_a: int, only_b: int) -> float:
    """Compute the exact two-sided p-value of McNemar's test that two classifiers are equally accurate.

    `only_a` and `only_b` count the images that only one classifies correctly; 1.0 if there are none.
    """
    discordant = only_a + only_b
    return float(scipy.stats.binomtest(only_a, discordant).pvalue) if discordant else 1.0


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
    return float(
        scipy.optimize.brentq(lambda d: mcnemar_power(n, discordance, d, alpha) - power, 0.0, discordance, xtol=1e-9)
    )


def mcnemar_power(n: int, discordance: float, difference: float, alpha: float = 0.05) -> float:
    """Compute the power of an exact two-sided McNemar test on n images, 0 to 1.

    `difference` in accuracy lies between 0 and `discordance`.
    """
    spread = 10 * math.sqrt(n * discordance) + 10  # the tails beyond have a probability below 1e-20
    pairs = np.arange(max(0, int(n * discordance - spread)), min(n, int(n * discordance + spread)) + 1)
    critical = scipy.stats.binom.ppf(alpha / 2, pairs, 0.5)
    critical = np.where(scipy.stats.binom.cdf(critical, pairs, 0.5) > alpha / 2, critical - 1, critical)
    better = (1 + difference / discordance) / 2
    rejects = scipy.stats.binom.cdf(critical, pairs, better) + scipy.stats.binom.sf(pairs - critical - 1, pairs, better)
    return float(scipy.stats.binom.pmf(pairs, n, discordance) @ rejects)


def required_sample_size(discordance: float, difference: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Compute the number of images an exact two-sided McNemar test needs to detect a difference in accuracy.

    It inverts `mcnemar_power`: `discordance` is the proportion of images that exactly one of two classifiers classifies
    correctly, and the sign of `difference`, at most as large, is ignored. Above 300,000 images it is the normal
    approximation; Connor, Biometrics 43 (1987) 207. None if there is no difference.
    """
    apart = min(abs(difference), discordance)
    if apart <= 0:
        return None
    chance, miss = float(scipy.stats.norm.isf(alpha / 2)), float(scipy.stats.norm.isf(1 - power))
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
