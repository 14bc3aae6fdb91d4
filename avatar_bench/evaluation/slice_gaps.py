"""Gaps between the slices of a data set: the largest difference of a proportion, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avatar_bench.metrics import stats
from avatar_bench.results.result import Metric

if TYPE_CHECKING:
    from avatar_bench.evaluation.intervals import IntervalOptions

GAP_COLUMNS = ["slices", "highest", "highest_value", "lowest", "lowest_value", "groups", "gap", "low", "high"]


def find_gap(
    options: IntervalOptions, names: Sequence[str], hits: NDArray[np.float64], groups: ArrayLike, minimum: int
) -> dict[str, Any] | None:
    """Return the GAP_COLUMNS of slices, the largest difference of their proportions; None without two of them.

    `hits` (N, K) are 0 or 1, NaN for images outside the slice; slices of fewer than `minimum` images do not count. The
    interval contains the largest difference of the true proportions: the differences of all pairs are each taken at a
    level that makes all valid at once (Bonferroni), so that choosing the largest one needs no further correction.
    """
    there = (~np.isnan(hits)).sum(axis=0)
    used = np.flatnonzero(there >= max(1, minimum))
    if len(used) < 2:
        return None
    pairs = list(combinations(range(len(used)), 2))
    level = 1 - (1 - options.level) / len(pairs)
    columns, group = hits[:, used], np.asarray(groups)
    ends = stats.proportion_intervals(columns, group, options.resamples, level, options.seed)
    values = np.nanmean(columns, axis=0)
    stated = [(float(value), one.low, one.high) for value, one in zip(values, ends, strict=True)]
    differences = [stats.difference_interval(stated[i], stated[j]) for i, j in pairs]
    highest, lowest = int(values.argmax()), int(values.argmin())
    return {
        "slices": len(used),
        "highest": names[used[highest]],
        "highest_value": float(values[highest]),
        "lowest": names[used[lowest]],
        "lowest_value": float(values[lowest]),
        "groups": len(np.unique(group[~np.isnan(columns).all(axis=1)])),
        "gap": float(values[highest] - values[lowest]),
        # of a pair, the difference in the other order has the interval (-high, -low)
        "low": max(0.0, *(max(low, -high) for low, high in differences)),
        "high": max(max(high, -low) for low, high in differences),
    }


def make_gap_metric(gap: Mapping[Any, Any]) -> Metric:
    """Return the metric of a gap: 0 is best."""
    return Metric(gap["gap"], gap["groups"], gap["low"], gap["high"], "Bonferroni by group", higher_is_better=False)
