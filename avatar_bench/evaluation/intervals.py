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
from avatar_bench.metrics.units import GROUP, NEW_SOURCES, SOURCE, Units, as_units
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric

Bounds = tuple[ArrayLike, ArrayLike]

UNBOUNDED: Bounds = (-np.inf, np.inf)
PROPORTION: Bounds = (0.0, 1.0)
DIFFERENCE: Bounds = (-1.0, 1.0)  # of two proportions
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

    `units` are Units or labels of groups. For new sources it is `stats.proportion_interval_of_sources`, with the
    interval for these sources beside; otherwise `stats.proportion_interval`.
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
    """Compute metrics by name with bootstrap intervals; `statistic` maps weights (B, N) to (B, K) for K names.

    `units` are Units, or labels of groups; for new sources the interval for these sources stands beside. A metric that
    is NaN becomes null with `reason`. `higher_is_better` and `floors` may differ by name; `bounds`, each a number or
    (K,), limit the intervals for new sources.
    """
    sampled = as_units(units)
    values = statistic(np.ones((1, len(sampled))))[0]
    better = higher_is_better if isinstance(higher_is_better, Mapping) else dict.fromkeys(names, higher_is_better)
    floor, why = floors or {}, reason or Reason("too_few_classes")

    def compute(part: Units) -> dict[str, Metric]:
        ends = stats.bootstrap_interval(statistic, part, options.resamples, options.level, options.seed, bounds=bounds)
        method = f"bootstrap by {part.drawn}"
        rows = zip(names, values, *ends, strict=True)
        metrics = {
            name: metric_with_interval(value, low, high, len(part), method, better[name], floor.get(name), why)
            for name, value, low, high in rows
        }
        return {name: metric if metric.value is None else state_units(metric, part) for name, metric in metrics.items()}

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
) -> Metric:
    """Return a metric with its resampled interval; without one, and with the reason, if the ends are equal or NaN."""
    if np.isnan(value):
        return Metric(None, n, higher_is_better=better, reason=reason, floor=floor)
    if not high - low > _ROUNDING:
        return Metric(float(value), n, higher_is_better=better, reason=Reason("no_spread"), floor=floor)
    return Metric(float(value), n, float(low), float(high), interval, better, floor=floor)


def state_units(metric: Metric, units: Units) -> Metric:
    """Return a metric that states the number of its units and their population."""
    return replace(metric, units=units.count, population=units.population)


def state_both(these: Metric, new: Metric) -> Metric:
    """Return the metric for new sources with its interval for these sources beside."""
    if these.low is None:
        return new
    beside = {"low": these.low, "high": these.high, **these.inference}
    return replace(new, these_sources={name: value for name, value in beside.items() if name != "population"})


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
    if units.sources is None or units.is_single[~np.isnan(hits)].any():
        return mark_single_source(these, units)
    by_source = stats.proportion_interval_of_sources(hits, units, options.level)
    return state_both(these, replace(metric, **_describe(by_source), population=units.population))


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
