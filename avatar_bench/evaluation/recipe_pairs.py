"""Paired comparison of two recipes on the same images: difference in accuracy, interval, p-value and significance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import option
from avatar_bench.evaluation.intervals import DIFFERENCE, OPEN_FRACTION, IntervalOptions
from avatar_bench.evaluation.seeds import Recipes
from avatar_bench.metrics import paired_tests
from avatar_bench.metrics.paired_tests import NO_NOISE, Noise
from avatar_bench.metrics.units import Units, encode
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric

Floats = NDArray[np.float64]
BY_SOURCE = "stratified t by source"
PLANNED_DIFFERENCES = {"n_required": 0.05, "n_required_10": 0.1}


@dataclass(kw_only=True)
class PairwiseOptions(IntervalOptions):
    """Options of the pairwise comparison of recipes."""

    alpha: float = option(0.05, help="significance level, after Holm's correction for all pairs", **OPEN_FRACTION)
    power: float = option(0.8, help="probability of detection that `n_required` and others assume", **OPEN_FRACTION)


def compare_pair(
    recipes: Recipes, drawn: Floats, a: int, b: int, level: float, power: float, alpha: float
) -> dict[str, Any]:
    """Compare the recipes at two positions; `drawn` (B, R) are their accuracies in the same resamples.

    `difference` is the accuracy of a minus that of b, with its interval (NaN if the two never differ) and `p`. For new
    sources all are of one test, see `compare_sources`, and account for seeds; otherwise `p` is that of groups and
    accounts for the images only. Where a class has one source there is no `p`, with the `reason`. `discordance` is the
    proportion of images on which the two differ. With `n_required` units the test would find a difference of 5 points
    with `power` at `alpha`, with `n_required_10` one of 10; NaN, with `n_required_reason`, where that cannot be known.
    """
    units, n, whole = recipes.units.usable, recipes.right.shape[1], math.lcm(*recipes.sizes[[a, b]].tolist())
    first, second = (recipes.counts[index] / recipes.sizes[index] for index in (a, b))
    gains = np.rint(whole * (first - second)).astype(np.int64)  # in integer parts of an image
    is_tested, test = not recipes.units.is_single.any(), BY_SOURCE
    if units.sources is not None:
        value, low, high, p = compare_sources(gains / whole, units, level, measure_seeds(recipes, a, b))
    else:
        value, p = float(gains.sum() / (whole * n)), paired_tests.cluster_permutation_test(gains, units.codes)
        low, high = recipes.find_ends(value, drawn[:, a] - drawn[:, b], level, DIFFERENCE)
        test = "exact McNemar" if units.count == n and recipes.sizes[[a, b]].max() == 1 else "cluster permutation"
    pair = {
        "a": recipes.names[a],
        "b": recipes.names[b],
        "n": n,
        "only_a_correct": float((first * (1 - second)).sum()),
        "only_b_correct": float((second * (1 - first)).sum()),
        **units.inference,
        "p": p if is_tested else math.nan,
        "difference": value,
        "low": low,
        "high": high,
        "test": test if is_tested else "",
        "reason": "" if is_tested else str(Reason("one_source_untested")),
        "discordant_units": int((paired_tests.sum_by_group(gains, units.codes) != 0).sum()),
        "seeds_a": int(recipes.sizes[a]),
        "seeds_b": int(recipes.sizes[b]),
        "discordance": float((gains != 0).mean()),
    }
    pair["n_required_reason"] = pair["reason"] or ("" if gains.any() else str(Reason("equally_often_correct")))
    for name, apart in PLANNED_DIFFERENCES.items():
        pair[name] = math.nan
        if not pair["n_required_reason"]:  # recipes that differ by so much differ on at least so many images
            grown = gains / whole * max(1.0, apart / pair["discordance"]) ** 0.5
            pair[name] = paired_tests.find_required_units(paired_tests.measure_noise(grown, units), apart, power, alpha)
    return pair


def compare_sources(
    gains: NDArray[Any], units: Units, level: float = 0.95, further: Noise = NO_NOISE
) -> tuple[float, float, float, float]:
    """Return the mean of gains (N,) over new sources, its interval and its p-value, of one test.

    Sources of a class weigh alike, and classes as in the set. `further` is that of `paired_tests.stratified_t_test`.
    """
    parts = np.bincount(units.codes, gains * units.weights, units.count)
    test = paired_tests.stratified_t_test(parts, encode(units.strata_of_units), level, further)
    return float(test.value), max(float(test.low), -1.0), min(float(test.high), 1.0), float(test.p)


def state_for_new_sources(metric: Metric, gains: Floats, units: Units, level: float) -> Metric:
    """Return the mean of gains (N,) with the interval of `compare_sources`, where it speaks for new sources."""
    if units.usable.sources is None:
        return metric
    value, low, high, __ = compare_sources(gains, units, level)
    ends: dict[str, Any] = {} if math.isnan(low) else {"low": low, "high": high, "interval": BY_SOURCE, "reason": None}
    return replace(metric, value=value, **ends)


def test_gains(gains: NDArray[np.integer], units: Units) -> float:
    """Return the p-value of gains (N,) of single runs, as of a pair; NaN where a class has one source."""
    if units.is_single.any():
        return math.nan
    if units.sources is not None:
        return compare_sources(gains, units)[-1]
    return paired_tests.cluster_permutation_test(gains, units.codes)


def measure_seeds(recipes: Recipes, a: int, b: int) -> Noise:
    """Return the variances of the difference of two recipes that come from their seeds, with degrees of freedom.

    What the seeds of a recipe change in one unit and not in others, the units vary by already.
    """
    units, members, seeds = recipes.units.usable, list(recipes.members.values()), recipes.seeds
    runs = [sorted(members[index], key=seeds.__getitem__) for index in (a, b)]
    parts = [np.bincount(units.codes, right * units.weights, units.count) for right in recipes.right]
    ours, theirs = (np.stack([parts[run] for run in of_recipe]) for of_recipe in runs)
    is_paired = [seeds[run] for run in runs[0]] == [seeds[run] for run in runs[1]]
    several = [values for values in ([ours - theirs] if is_paired else [ours, theirs]) if len(values) > 1]
    spread = [values.sum(axis=1).var(ddof=1) - values.var(axis=0, ddof=1).sum() for values in several]
    sizes = np.array([len(values) for values in several], dtype=np.float64)
    return Noise(np.maximum(spread, 0.0) / sizes, sizes - 1)


def mark_significant(pairs: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Add Holm-corrected p-values and `significant`: p below `alpha` and an interval that excludes 0."""
    table = pairs.copy()
    table.insert(list(table).index("p") + 1, "p_holm", paired_tests.holm(table["p"]))
    beyond = (table["low"] > 0) | (table["high"] < 0)
    return table.assign(significant=(table["p_holm"] < alpha) & beyond)


def find_detectable_difference(recipes: Recipes, a: int, b: int, power: float, alpha: float) -> float | None:
    """Return the smallest difference that the test of the recipes at two positions finds with `power`."""
    gains = recipes.counts[a] / recipes.sizes[a] - recipes.counts[b] / recipes.sizes[b]
    return find_detectable_mean(gains, recipes.units, power, alpha, measure_seeds(recipes, a, b))


def find_detectable_mean(
    gains: Floats, units: Units, power: float, alpha: float, further: Noise = NO_NOISE
) -> float | None:
    """Return the mean that is found with `power` over units whose gains (N,) vary as these.

    Return None where all are 0, the units are too few, or a class has one source.
    """
    if units.is_single.any() or not gains.any():
        return None
    noise = paired_tests.measure_noise(gains, units)
    least = float(np.quantile(paired_tests.simulate_least_sums(noise, alpha, further), power, method="higher"))
    return least if least <= 1 else None


def warn_of_units(units: Units, pairs: int, alpha: float) -> list[Reason]:
    """Return a warning where the units are too few for any of the pairs to differ significantly."""
    if units.is_single.any():
        return [Reason("one_source_untested")]
    count = units.usable.count
    least = min(1.0, pairs * paired_tests.find_least_p(count))
    code = "too_few_sources" if units.usable.sources is not None else "too_few_groups"
    return [Reason(code, n=count, p=least, alpha=alpha)] if least >= alpha else []
