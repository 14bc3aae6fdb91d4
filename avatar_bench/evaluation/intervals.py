"""Metrics with confidence intervals, and the options of these intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avatar_bench.config.options import Options, option
from avatar_bench.metrics import stats
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric

_ROUNDING = 1e-12  # differences between resamples that come from summing in another order


@dataclass(kw_only=True)
class IntervalOptions(Options):
    """Options of the confidence intervals of a block."""

    level: float = option(
        0.95, help="of every interval", check=lambda level: 0 < level < 1, expected="above 0 and below 1"
    )
    resamples: int = option(2000, help="of the bootstrap, which draws whole groups", range=(100, None))
    seed: int = option(0, help="of the bootstrap", range=(0, None))


def compute_proportion(
    options: IntervalOptions,
    hits: NDArray[np.bool_],
    groups: ArrayLike,
    unit: str = "group",
    higher_is_better: bool | None = True,
    floor: float | None = None,
) -> Metric:
    """Compute the proportion of True in `hits` (N,), N at least 1, with `stats.proportion_interval`."""
    ends = stats.proportion_interval(hits, groups, options.resamples, options.level, options.seed, unit)
    value = float(np.mean(hits))
    return Metric(value, ends.n, ends.low, ends.high, ends.method, higher_is_better, floor=floor)


def bootstrap_metrics(
    options: IntervalOptions,
    names: Sequence[str],
    statistic: stats.Statistic,
    groups: ArrayLike,
    higher_is_better: bool | Mapping[str, bool | None] | None = True,
    floors: Mapping[str, float] | None = None,
    reason: Reason | None = None,
) -> dict[str, Metric]:
    """Compute metrics by name with bootstrap intervals; `statistic` maps weights (B, N) to (B, K) for K names.

    A metric that is NaN becomes null with `reason`. `higher_is_better` and `floors` may differ by name.
    """
    group = np.asarray(groups)
    values = statistic(np.ones((1, len(group))))[0]
    lows, highs = stats.bootstrap_interval(statistic, group, options.resamples, options.level, options.seed)
    better = higher_is_better if isinstance(higher_is_better, Mapping) else dict.fromkeys(names, higher_is_better)
    units, floor = len(np.unique(group)), floors or {}
    why = reason or Reason("too_few_classes")
    return {
        name: metric_with_interval(value, low, high, units, "bootstrap by group", better[name], floor.get(name), why)
        for name, value, low, high in zip(names, values, lows, highs, strict=True)
    }


def metric_with_interval(
    value: float,
    low: float,
    high: float,
    n: int,
    interval: str,
    better: bool | None = True,
    floor: float | None = None,
    reason: Reason | None = None,
) -> Metric:
    """Return a metric with its resampled interval; without one, and with the reason, if the ends are equal or NaN.

    A value of NaN becomes null with `reason`.
    """
    if np.isnan(value):
        return Metric(None, n, higher_is_better=better, reason=reason, floor=floor)
    if not high - low > _ROUNDING:
        return Metric(float(value), n, higher_is_better=better, reason=Reason("no_spread"), floor=floor)
    return Metric(float(value), n, float(low), float(high), interval, better, floor=floor)
