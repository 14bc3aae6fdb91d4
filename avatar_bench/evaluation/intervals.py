"""Metrics with confidence intervals, their options, and the largest gap between slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avatar_bench.config.options import Options, option
from avatar_bench.metrics import stats
from avatar_bench.metrics.stats import Bounds
from avatar_bench.metrics.units import GROUP, NEW_SOURCES, SOURCE, Units, as_units
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric

UNBOUNDED: Bounds = (-np.inf, np.inf)
PROPORTION: Bounds = (0.0, 1.0)
LOSS: Bounds = (0.0, np.inf)
DIFFERENCE: Bounds = (-1.0, 1.0)  # of two proportions
FEWEST_SOURCES = 3  # of each class, for the interval for new sources of a metric other than a proportion
# of an option that is a proportion
OPEN_FRACTION: Any = {"check": lambda value: 0 < value < 1, "expected": "above 0 and below 1"}
_ROUNDING = 1e-12  # differences between resamples that come from summing in another order


@dataclass(kw_only=True)
class IntervalOptions(Options):
    """Options of the confidence intervals of a block."""

    level: float = option(0.95, help="of every interval", **OPEN_FRACTION)
    resamples: int = option(2000, help="of the bootstrap, which draws whole sources or groups", range=(100, None))
    seed: int = option(0, help="of the bootstrap", range=(0, None))


def compute_proportion(
    options: IntervalOptions,
    hits: NDArray[np.bool_],
    units: Units | ArrayLike,
    higher_is_better: bool | None = True,
    floor: float | None = None,
    among: NDArray[np.bool_] | None = None,
) -> Metric:
    """Compute the proportion of True in `hits` (N,), `among` some images (N,) if given, at least one.

    `units` are Units or labels of groups. For new sources, those of a class weigh alike, and the interval is
    `stats.proportion_interval_of_sources`, with the proportion of these images, and its interval for these sources,
    beside; otherwise the latter alone, by `stats.proportion_interval`.
    """
    sampled = as_units(units)
    inside = np.ones(len(sampled), dtype=bool) if among is None else among
    here = sampled.these.take(inside)
    ends = stats.proportion_interval(hits[inside], here.codes, options.resamples, options.level, options.seed)
    return _make_proportion(options, np.where(inside, hits, np.nan), ends, sampled, higher_is_better, floor)


def compute_proportions(
    options: IntervalOptions,
    hits: NDArray[np.float64],
    units: Units | ArrayLike,
    higher_is_better: bool | None = True,
    floor: float | None = None,
) -> list[Metric]:
    """Compute the proportion of each column of hits (N, K), 0 or 1, or NaN for images of no interest.

    As `compute_proportion`, with one bootstrap for all columns; the proportion of a column without an image is null.
    """
    sampled = as_units(units)
    codes = sampled.these.codes
    ends = stats.proportion_intervals(hits, codes, options.resamples, options.level, options.seed)
    none = Metric(None, 0, higher_is_better=higher_is_better, reason=Reason("no_images"), floor=floor)
    return [
        none if np.isnan(column).all() else _make_proportion(options, column, end, sampled, higher_is_better, floor)
        for column, end in zip(hits.T, ends, strict=True)
    ]


def bootstrap_metrics(
    options: IntervalOptions,
    names: Sequence[str],
    statistic: stats.Statistic,
    units: Units | ArrayLike,
    higher_is_better: bool | Mapping[str, bool | None] | None = True,
    floors: Mapping[str, float] | None = None,
    reason: Reason | None = None,
    bounds: Bounds = UNBOUNDED,
) -> dict[str, Metric]:
    """Compute metrics by name with intervals; `statistic` maps weights (B, N) to (B, K) for K names.

    `units` are Units, or labels of groups, which a bootstrap draws. For new sources, those of a class weigh alike, and
    the interval is that of `stats.jackknife_interval`, of FEWEST_SOURCES in each class; value and interval for these
    sources stand beside. A metric that is NaN becomes null with `reason`. `higher_is_better` and `floors` may differ by
    name; `bounds`, each a number or (K,), are those of the metrics.
    """
    sampled = as_units(units)
    better = higher_is_better if isinstance(higher_is_better, Mapping) else dict.fromkeys(names, higher_is_better)
    floor, why = floors or {}, reason or Reason("too_few_classes")

    def compute(part: Units) -> dict[str, Metric]:
        values = statistic(np.ones((1, len(part))) if part.sources is None else part.weights[None])[0]
        if part.sources is None:
            ends = stats.bootstrap_interval(statistic, part, options.resamples, options.level, options.seed, bounds)
        else:
            ends = stats.jackknife_interval(statistic, part, options.level, bounds)
        method = "bootstrap by group" if part.sources is None else "jackknife by source"
        return {
            name: metric_with_interval(value, low, high, len(part), method, better[name], floor.get(name), why, part)
            for name, value, low, high in zip(names, values, *ends, strict=True)
        }

    return compute_for_both(compute, sampled)


def compute_for_both(compute: Callable[[Units], dict[str, Metric]], units: Units) -> dict[str, Metric]:
    """Return metrics for new sources with their intervals for these sources beside, or for these sources alone."""
    these = compute(units.these)
    if units.usable.sources is None:
        return {name: mark_single_source(metric, units) for name, metric in these.items()}
    return {name: state_both(these[name], metric) for name, metric in compute(units).items()}


def balance_interval(options: IntervalOptions, metric: Metric, correct: NDArray[np.bool_], units: Units) -> Metric:
    """Return a balanced accuracy with `stats.balanced_interval_of_sources`, if it speaks for new sources."""
    if units.usable.sources is None or metric.value is None:
        return metric
    ends = stats.balanced_interval_of_sources(correct, units, options.level)
    return replace(metric, **_describe(ends), population=units.population, reason=None)


def metric_with_interval(
    value: float,
    low: float,
    high: float,
    n: int,
    interval: str,
    better: bool | None = True,
    floor: float | None = None,
    reason: Reason | None = None,
    units: Units | None = None,
) -> Metric:
    """Return a metric with its interval, that of `units` if given; without one if the ends are equal or NaN.

    Then it has the reason: `reason` if the value is NaN.
    """
    if np.isnan(value):
        return Metric(None, n, higher_is_better=better, reason=reason, floor=floor)
    metric = Metric(float(value), n, higher_is_better=better, floor=floor)
    if units is not None:
        metric = state_units(metric, units)
        if units.sources is not None and units.fewest < FEWEST_SOURCES:
            return replace(metric, reason=Reason("few_sources", n=FEWEST_SOURCES))
    if not high - low > _ROUNDING:
        return replace(metric, reason=Reason("no_spread"))
    return replace(metric, low=float(low), high=float(high), interval=interval)


def state_units(metric: Metric, units: Units) -> Metric:
    """Return a metric that states the number of its units and their population."""
    return replace(metric, units=units.count, population=units.population)


def state_both(these: Metric, new: Metric) -> Metric:
    """Return the metric for new sources with that for these sources beside."""
    if these.value is None:
        return new
    ends = {"low": these.low, "high": these.high, "unit": these.unit, "units": these.units} if these.interval else {}
    return replace(new, these_sources={"value": these.value, **ends})


def mark_single_source(metric: Metric, units: Units) -> Metric:
    """Return a metric with the reason why it speaks for these sources, if its sources are a sample of more."""
    is_marked = units.sources is not None and metric.low is not None and metric.population != NEW_SOURCES
    return replace(metric, reason=Reason("one_source")) if is_marked else metric


def _make_proportion(
    options: IntervalOptions,
    hits: NDArray[np.float64],
    ends: stats.Interval,
    units: Units,
    higher_is_better: bool | None,
    floor: float | None,
) -> Metric:
    """Return the proportion of hits (N,), NaN outside, with its interval for these sources, and that for new ones."""
    n = int((~np.isnan(hits)).sum())
    metric = Metric(float(np.nanmean(hits)), n, higher_is_better=higher_is_better, floor=floor)
    these = replace(metric, **_describe(ends), population=units.these.population)
    inside = ~np.isnan(hits)
    if units.sources is None or units.is_single[inside].any():
        return mark_single_source(these, units)
    by_source = stats.proportion_interval_of_sources(hits, units, options.level)
    value = float((hits * units.weights)[inside].sum() / units.weights[inside].sum())
    return state_both(these, replace(metric, value=value, **_describe(by_source), population=units.population))


def _describe(ends: stats.Interval) -> dict[str, Any]:
    return {"low": ends.low, "high": ends.high, "interval": ends.method, "units": ends.n}


GAP_COLUMNS = [
    *("slices", "highest", "highest_value", "lowest", "lowest_value", "gap", "low", "high"),
    *("unit", "units", "population", "reason"),
]


def find_gap(
    options: IntervalOptions, names: Sequence[str], hits: NDArray[np.float64], units: Units | ArrayLike, minimum: int
) -> dict[str, Any] | None:
    """Return the GAP_COLUMNS of slices, the largest difference of their proportions; None without two of them.

    `hits` (N, K) are 0 or 1, NaN for images outside the slice; slices of fewer than `minimum` images do not count. The
    interval contains the largest difference of the true proportions: the differences of all pairs are each taken at a
    level that makes all valid at once (Bonferroni), so that choosing the largest one needs no further correction. It is
    for new sources where each slice has two or more of each of its classes; otherwise for these.
    """
    there = ~np.isnan(hits)
    used = np.flatnonzero(there.sum(axis=0) >= max(1, minimum))
    if len(used) < 2:
        return None
    pairs, sampled = list(combinations(range(len(used)), 2)), as_units(units)
    stricter = replace(options, level=1 - (1 - options.level) / len(pairs))
    is_new = sampled.sources is not None and not any(sampled.take(there[:, k]).is_single.any() for k in used)
    if is_new:
        metrics = [compute_proportion(stricter, hits[there[:, k], k] > 0, sampled.take(there[:, k])) for k in used]
    else:
        metrics = compute_proportions(stricter, hits[:, used], sampled.these)
    stated: Any = [(metric.value, metric.low, metric.high) for metric in metrics]
    differences = [stats.difference_interval(stated[i], stated[j]) for i, j in pairs]
    values = [value for value, *__ in stated]
    highest, lowest = int(np.argmax(values)), int(np.argmin(values))
    return {
        "slices": len(used),
        "highest": names[used[highest]],
        "highest_value": values[highest],
        "lowest": names[used[lowest]],
        "lowest_value": values[lowest],
        "gap": values[highest] - values[lowest],
        # of a pair, the difference in the other order has the interval (-high, -low)
        "low": max(0.0, *(max(low, -high) for low, high in differences)),
        "high": min(1.0, max(max(high, -low) for low, high in differences)),
        **(sampled if is_new else sampled.these).take(np.asarray(there[:, used].any(axis=1))).inference,
        "reason": "one_source" if sampled.sources is not None and not is_new else "",
    }


def make_gap_metric(gap: Mapping[Any, Any]) -> Metric:
    """Return the metric of a gap: 0 is best."""
    reason = Reason(gap["reason"]) if gap["reason"] else None
    about = {"units": gap["units"], "population": gap["population"], "floor": gap.get("floor"), "reason": reason}
    method = f"Bonferroni by {SOURCE if gap['unit'] == SOURCE else GROUP}"
    return Metric(gap["gap"], gap["units"], gap["low"], gap["high"], method, higher_is_better=False, **about)
