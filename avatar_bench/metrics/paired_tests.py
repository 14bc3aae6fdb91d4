"""Paired tests of classifiers on the same images, their power, joint resamples, ranks and compact letters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are used
from numpy.typing import ArrayLike, NDArray

from avatar_bench.metrics import stats
from avatar_bench.metrics.stats import ratio
from avatar_bench.metrics.units import Units, encode

Floats = NDArray[np.float64]

ALPHA = 0.05
_ROUNDING = 1e-20  # of a variance


class SumTest(NamedTuple):
    """A sum, or sums (...,), with the two-sided p-value of 0, and the interval that this test does not reject."""

    value: Floats
    low: Floats
    high: Floats
    p: Floats


class Noise(NamedTuple):
    """Variances (H,) of independent parts of a sum, their degrees of freedom (H,), and the step of the sum."""

    variances: ArrayLike = ()
    freedoms: ArrayLike = ()
    step: float = 0.0


NO_NOISE = Noise()


def stratified_t_test(parts: ArrayLike, strata: ArrayLike, level: float = 0.95, further: Noise = NO_NOISE) -> SumTest:
    """Test the sum of the parts (..., U) of independent units, drawn within strata (U,), by a stratified t test.

    The mean over classes of means over sources is the sum of parts, each a source's mean times its weight. Freedom is
    Satterthwaite's, Biometrics Bull. 2 (1946) 110. As of a sign-flip test, p is at least `find_least_p`: the parts of
    few units may happen to be equal. NaN where a stratum has one unit; ends are NaN too where nothing varies about 0.
    """
    part, stratum = np.asarray(parts, dtype=np.float64), encode(strata)
    member = (stratum[:, None] == np.arange(stratum.max() + 1)).astype(np.float64)
    sizes, least_p = member.sum(axis=0), find_least_p(len(stratum))
    others, their_freedoms = (np.asarray(values, dtype=np.float64) for values in further[:2])
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = (part - (part @ member / sizes)[..., stratum]) ** 2 @ member
        variances = squares * sizes / (sizes - 1)
        total = variances.sum(axis=-1) + others.sum()
        spread = (variances**2 / (sizes - 1)).sum(axis=-1) + (others**2 / their_freedoms).sum()
        freedom = np.where(total > _ROUNDING, total**2 / spread, len(stratum) - len(sizes))
        value = part.sum(axis=-1)
        least = np.abs(value) / scipy.stats.t.isf(least_p / 2, freedom) if least_p < 1 else np.inf
        error = np.maximum(np.sqrt(np.where(total > _ROUNDING, total, 0 * total)), least)
        p = np.where(error > 0, 2 * scipy.stats.t.sf(np.abs(value) / error, freedom), 1 + 0 * error)
    half = np.where(error > 0, scipy.stats.t.isf((1 - level) / 2, freedom) * error, np.nan)
    return SumTest(value, value - half, value + half, p)


def measure_noise(values: ArrayLike, units: Units) -> Noise:
    """Measure how the weighted mean of values (N,) varies over units, by strata.

    Variances are at least those of independent images whose mean is 0, since few units may happen to agree. Those of
    groups are about 0, as of a sign-flip test, whose sum has steps that make it more cautious the fewer groups differ.
    """
    value = np.asarray(values, dtype=np.float64)
    strata = np.zeros(units.count, dtype=np.intp) if units.sources is None else encode(units.strata_of_units)
    parts, sizes = np.bincount(units.codes, value * units.weights, units.count), np.bincount(strata)
    centre = 0.0 if units.sources is None else (np.bincount(strata, parts) / sizes)[strata]
    squares = np.bincount(strata, (parts - centre) ** 2)
    by_image = np.bincount(strata[units.codes], (value * units.weights) ** 2)
    step = float(np.sqrt((value[value != 0] ** 2).mean())) / units.count if units.sources is None else 0.0
    return Noise(np.maximum(squares * sizes / np.maximum(sizes - 1, 1), by_image), sizes - 1.0, step)


def simulate_least_sums(
    noise: Noise, alpha: float = ALPHA, further: Noise = NO_NOISE, scale: float = 1.0, draws: int = 2000, seed: int = 0
) -> Floats:
    """Return from which sum on its test finds it, in draws of normal parts, (draws,): the power is a quantile of these.

    The units are `scale` times as many as those of the noise; `further` noise does not depend on them. Infinite where
    they are too few for any p-value below `alpha`.
    """
    known = np.asarray(noise.variances), np.asarray(noise.freedoms)
    units = float((known[1] + 1).sum()) * scale
    if find_least_p(units) >= alpha:
        return np.full(draws, np.inf)
    true = np.append(known[0] / scale, further.variances)
    freedom = np.append((known[1] + 1) * scale - 1, further.freedoms)
    generator = np.random.default_rng(seed)
    error = generator.standard_normal((draws, len(true))) @ np.sqrt(true)
    seen = true * generator.chisquare(freedom, (draws, len(true))) / freedom
    total = seen.sum(axis=1)
    critical = scipy.stats.t.isf(alpha / 2, total**2 / (seen**2 / freedom).sum(axis=1))
    return np.asarray(critical * np.sqrt(total) + noise.step / scale - error)


def find_required_units(noise: Noise, difference: float, power: float = 0.8, alpha: float = ALPHA) -> int:
    """Return with how many units a difference is found with `power`, in the proportions of strata that the noise has.

    Each stratum has two units at least.
    """
    sizes = np.asarray(noise.freedoms) + 1
    fewest = math.ceil(2 * float(sizes.sum() / sizes.min()))

    def finds(units: int) -> bool:
        least = simulate_least_sums(noise, alpha, scale=units / float(sizes.sum()))
        return bool(np.quantile(least, power, method="higher") <= difference)

    low, high = fewest - 1, fewest
    while not finds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if finds(middle) else (middle, high)
    return high


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


def find_least_p(units: float) -> float:
    """Return the smallest p-value that a sign-flip test of some units can have: all gains have one sign."""
    return float(2.0 ** min(0.0, 1 - units))


def sum_by_group(values: ArrayLike, groups: ArrayLike) -> NDArray[np.int64]:
    """Sum integers (N,) by group (N,), in the order of the sorted groups."""
    return np.rint(np.bincount(encode(groups), np.asarray(values, dtype=np.float64))).astype(np.int64)


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


def bound_ranks(better: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the lowest and the highest rank of each of R; `better` (R, R) is bool: the row is better than the column.

    If all these are true at once with some confidence, as by Holm's method, so are the ranks. Mogstad, Romano, Shaikh
    and Wilhelm, Rev. Econ. Stud. 91 (2024) 476.
    """
    wins = np.asarray(better, dtype=np.int64)
    return 1 + wins.sum(axis=0), len(wins) - wins.sum(axis=1)


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
