"""Paired comparison of two recipes on the same images: difference in accuracy, interval, p-value and significance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import option
from avatar_bench.evaluation.intervals import DIFFERENCE, OPEN_FRACTION, IntervalOptions
from avatar_bench.evaluation.seeds import Recipes
from avatar_bench.metrics import paired_tests
from avatar_bench.metrics.units import Units
from avatar_bench.results.reasons import Reason

Floats = NDArray[np.float64]


@dataclass(kw_only=True)
class PairwiseOptions(IntervalOptions):
    """Options of the pairwise comparison of recipes."""

    alpha: float = option(0.05, help="significance level, after Holm's correction for all pairs", **OPEN_FRACTION)
    power: float = option(0.8, help="probability of detection that `n_required` and others assume", **OPEN_FRACTION)


def compare_pair(
    recipes: Recipes, drawn: Floats, a: int, b: int, level: float, power: float, alpha: float
) -> dict[str, object]:
    """Compare the recipes at two positions; `drawn` (B, R) are their accuracies in the same resamples.

    `difference` is the accuracy of a minus that of b, with its interval (NaN if the two never differ); `p` and all that
    follows from it are those of the units, `p_these_sources` is that of the groups; both account for the images
    only. `discordance` is the proportion of images on which the two differ, and `gain` the root mean square of the
    differences on these images: 1 for single runs, less for means over seeds. With `n_required` images the test
    would find the difference with `power` at `alpha`; it is NaN if there is no difference, with
    `n_required_reason`.
    """
    units, n = recipes.units.usable, recipes.right.shape[1]
    first, second = (recipes.counts[index] / recipes.sizes[index] for index in (a, b))
    only_a, only_b = float((first * (1 - second)).sum()), float((second * (1 - first)).sum())
    whole = math.lcm(int(recipes.sizes[a]), int(recipes.sizes[b]))  # integer parts of an image, in which a gains over b
    ours, theirs = (recipes.counts[index] * (whole // recipes.sizes[index]) for index in (a, b))
    gains = np.asarray(ours - theirs)
    sums = paired_tests.sum_by_group(gains, units.codes)
    difference = float(gains.sum() / (whole * n))
    single = units.count == n and recipes.sizes[a] == recipes.sizes[b] == 1
    low, high = recipes.find_ends(difference, drawn[:, a] - drawn[:, b], level, DIFFERENCE)
    discordance = float((gains != 0).mean())
    gain = float(np.sqrt((gains[gains != 0] ** 2).mean()) / whole) if discordance else 0.0
    needed = paired_tests.required_sample_size(discordance, difference / gain, power, alpha) if discordance else None
    centre = gains.mean() if units.sources is not None else 0.0  # of many images, a source's sum is mostly the mean
    spread = paired_tests.design_effect(gains - centre, units.codes)
    return {
        "a": recipes.names[a],
        "b": recipes.names[b],
        "n": n,
        "only_a_correct": only_a,
        "only_b_correct": only_b,
        **units.inference,
        **test_gains(gains, units),
        "difference": difference,
        "low": low,
        "high": high,
        "test": "exact McNemar" if single else "cluster permutation",
        "discordant_units": int((sums != 0).sum()),
        "seeds_a": int(recipes.sizes[a]),
        "seeds_b": int(recipes.sizes[b]),
        "discordance": discordance,
        "gain": gain,
        "design_effect": spread,
        "n_required": math.ceil(needed * spread) if needed else math.nan,
        "n_required_reason": "" if needed else str(Reason("equally_often_correct")),
    }


def test_gains(gains: NDArray[np.integer], units: Units) -> dict[str, float]:
    """Return `p`, that of gains (N,) by their units, and `p_these_sources`, that by groups."""
    p = paired_tests.cluster_permutation_test(gains, units.codes)
    new = units.sources is not None
    return {"p": p, "p_these_sources": paired_tests.cluster_permutation_test(gains, units.these.codes) if new else p}


def mark_significant(pairs: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Add Holm-corrected p-values and `significant`: p below `alpha` and an interval that excludes 0."""
    table = pairs.copy()
    table.insert(list(table).index("p") + 1, "p_holm", paired_tests.holm(table["p"]))
    beyond = (table["low"] > 0) | (table["high"] < 0)
    return table.assign(significant=(table["p_holm"] < alpha) & beyond)


def find_detectable_difference(pair: pd.Series, power: float, alpha: float) -> float | None:
    """Return the smallest significant difference on as many images with the same discordance and gain.

    In the sign test, a mean over seeds that gains `gain` per image equals a single run's gain times `gain`. The design
    effect reduces the number of images if groups repeat. The interval over several seeds is wider than the test
    assumes, and must exclude 0 too. Return None if too few images separate the two.
    """
    n = int(pair["n"] / pair["design_effect"])
    least = paired_tests.detectable_difference(n, pair["discordance"], power, alpha)
    if least is None or paired_tests.find_least_p(pair["units"]) > alpha:
        return None
    by_test = float(pair["gain"] * least)
    if max(pair["seeds_a"], pair["seeds_b"]) == 1 or math.isnan(pair["low"]):
        return by_test
    spread = float(pair["gain"] * math.sqrt(pair["discordance"] / n))
    return max(by_test, float(pair["high"] - pair["low"]) / 2 + NormalDist().inv_cdf(power) * spread)


def warn_of_units(units: Units, pairs: int, alpha: float) -> list[Reason]:
    """Return a warning where the units are too few for any of the pairs to differ significantly."""
    count = units.usable.count
    least = min(1.0, pairs * paired_tests.find_least_p(count))
    code = "too_few_sources" if units.usable.sources is not None else "too_few_groups"
    return [Reason(code, n=count, p=least, alpha=alpha)] if least >= alpha else []
