"""Two recipes on the same images: their difference in accuracy, how sure it is, and which pairs are told apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.block import IntervalCompareBlock
from avatar_bench.evaluation.seeds import Recipes
from avatar_bench.i18n import _
from avatar_bench.metrics import paired, stats

Floats = NDArray[np.float64]


@dataclass(kw_only=True)
class PairwiseBlock(IntervalCompareBlock):
    """Compare recipes in pairs: told apart below `alpha`, by tests that find a difference with chance `power`."""

    alpha: float = 0.05
    power: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("alpha", 0 < self.alpha < 1, "above 0 and below 1")
        self.require("power", 0 < self.power < 1, "above 0 and below 1")


def compare_pair(
    judged: Recipes, drawn: Floats, a: int, b: int, level: float, power: float, alpha: float
) -> dict[str, object]:
    """Compare the recipes at two places; `drawn` (B, R) are their accuracies in the same resamples.

    `difference` is accuracy of a minus that of b, with its interval (NaN where the two never differ); `p` knows the
    images alone. `discordance` is the share of images on which the two differ, and `gain` the root of the mean
    square of by how much they do there: 1 for single runs, less for means over seeds. `n_required` images would let the
    test find the difference with `power` at `alpha`; NaN where there is none, and `n_required_reason` says so.
    """
    groups, n = judged.groups, judged.right.shape[1]
    first, second = (judged.counts[place] / judged.sizes[place] for place in (a, b))
    only_a, only_b = float((first * (1 - second)).sum()), float((second * (1 - first)).sum())
    gains, whole = _compute_gains(judged, a, b)
    sums = paired.sum_by_group(gains, groups)
    difference = float(gains.sum() / (whole * n))
    single = judged.units == n and judged.sizes[a] == judged.sizes[b] == 1
    low, high = compute_interval(drawn[:, a] - drawn[:, b], level)
    discordance = float((gains != 0).mean())
    gain = float(np.sqrt((gains[gains != 0] ** 2).mean()) / whole) if discordance else 0.0
    needed = stats.required_sample_size(discordance, difference / gain, power, alpha) if discordance else None
    return {
        "a": judged.names[a],
        "b": judged.names[b],
        "n": n,
        "only_a_correct": only_a,
        "only_b_correct": only_b,
        "p": paired.cluster_permutation_test(gains, groups),
        "difference": difference,
        "low": low,
        "high": high,
        "test": "exact McNemar" if single else "cluster permutation",
        "groups": judged.units,
        "discordant_groups": int((sums != 0).sum()),
        "seeds_a": int(judged.sizes[a]),
        "seeds_b": int(judged.sizes[b]),
        "discordance": discordance,
        "gain": gain,
        "design_effect": paired.design_effect(gains, groups),
        "n_required": math.ceil(needed * paired.design_effect(gains, groups)) if needed else math.nan,
        "n_required_reason": "" if needed else _("the two are right equally often"),
    }


def mark_significant(pairs: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Correct p for the number of pairs by Holm, and tell where it is below `alpha` and the interval leaves out 0."""
    table = pairs.copy()
    table.insert(list(table).index("p") + 1, "p_holm", stats.holm(table["p"]))
    beyond = (table["low"] > 0) | (table["high"] < 0)
    return table.assign(significant=(table["p_holm"] < alpha) & beyond)


def find_detectable_difference(pair: pd.Series, power: float, alpha: float) -> float | None:
    """Give the smallest difference that is told apart on so many images of which as many gain as much.

    To the test of signs, a mean over seeds that gains `gain` of an image is a single run's gain times that. Where
    groups repeat, on as many fewer as the design effect says. The interval of several seeds is wider than the test
    knows, and must leave out 0 as well. None where too few images tell the two apart.
    """
    n = int(pair["n"] / pair["design_effect"])
    least = stats.detectable_difference(n, pair["discordance"], power, alpha)
    if least is None:
        return None
    by_test = float(pair["gain"] * least)
    if max(pair["seeds_a"], pair["seeds_b"]) == 1 or math.isnan(pair["low"]):
        return by_test
    spread = float(pair["gain"] * math.sqrt(pair["discordance"] / n))
    return max(by_test, float(pair["high"] - pair["low"]) / 2 + NormalDist().inv_cdf(power) * spread)


def compute_interval(drawn: Floats, level: float) -> tuple[float, float]:
    """Give the interval of a difference; none where the two never differ."""
    low, high = stats.percentiles(drawn, level)
    return (float(low), float(high)) if low < high else (math.nan, math.nan)


def _compute_gains(judged: Recipes, a: int, b: int) -> tuple[NDArray[np.int64], int]:
    """Give what a has right beyond b of each image (N,) in whole parts, and how many of them make one image."""
    whole = math.lcm(int(judged.sizes[a]), int(judged.sizes[b]))
    first, second = (judged.counts[place] * (whole // judged.sizes[place]) for place in (a, b))
    return np.asarray(first - second), whole
