"""Operating points of each class against the others: curves with bands, and recall at few false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.intervals import (
    PROPORTION,
    bootstrap_metrics,
    compute_proportion,
    mark_single_source,
    state_both,
    state_units,
)
from avatar_bench.metrics import detection, operating_points, risk_control, stats
from avatar_bench.metrics.units import Units
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric

if TYPE_CHECKING:
    from avatar_bench.evaluation.intervals import IntervalOptions
    from avatar_bench.results.predictions import Predictions

Floats = NDArray[np.float64]
Reals = NDArray[np.floating]
_ALARM_RATES = np.linspace(0, 1, 41) ** 2  # of the ROC curve: dense where it matters
_RECALLS = np.arange(1, 41) / 40  # of the precision-recall curve
_ROUNDING = 1e-12
_COLUMNS = [
    *("class", "false_alarms", "recall", "low", "high", "threshold", "n", "others", "other_groups"),
    *("seen", "seen_high", "n_required"),
]


class _Curves(NamedTuple):
    """Recall at the stated rates of false alarms, then at _ALARM_RATES, then precision at _RECALLS, all (K,)."""

    values: Floats
    lows: Floats
    highs: Floats
    methods: NDArray[np.str_]


def compute_operating_points(
    block: IntervalOptions, predictions: Predictions, rates: Sequence[float]
) -> tuple[dict[str, Metric], dict[str, pd.DataFrame]]:
    """Compute the recall of each class at each rate of false alarms, and the tables of points and of both curves.

    The score of a class is its probability. A metric is null if the images of other classes are too few to show that
    false alarms are that rare, or if one side is absent; the table of points has it all the same.
    """
    metrics: dict[str, Metric] = {}
    points: list[dict[str, object]] = []
    curves: dict[str, list[pd.DataFrame]] = {"roc": [], "precision_recall": []}
    for index, name in enumerate(predictions.classes):
        positive, scores = predictions.targets == index, predictions.probabilities[:, index]
        if positive.all() or not positive.any():
            absent = Reason("only_class" if positive.all() else "class_absent", name=name)
            metrics |= {f"recall_at/{rate:g}/{name}": Metric(None, 0, reason=absent) for rate in rates}
            continue
        units = predictions.units.usable
        found = _compute_curves(block, scores, positive, units, rates)
        statistic = detection.build_roc_statistic(scores, positive, _build_recalls(rates))
        these = bootstrap_metrics(block, [str(rate) for rate in rates], statistic, units.these)
        for place, rate in enumerate(rates):
            point = _build_point(block, scores, positive, predictions.group_codes, rate)
            ends = float(found.values[place]), float(found.lows[place]), float(found.highs[place])
            points.append({"class": name, **dict(zip(("recall", "low", "high"), ends, strict=True)), **point})
            n, required = int(point["other_groups"]), int(point["n_required"])
            few = Reason("few_others", n=n, rate=rate, required=required)
            metric = Metric(ends[0], len(units), *ends[1:], str(found.methods[place]), floor=rate)
            metric = mark_single_source(state_units(metric, units), predictions.units)
            if units.sources is not None:
                metric = state_both(these[str(rate)], metric)
            metrics[f"recall_at/{rate:g}/{name}"] = metric if n >= required else Metric(None, n, reason=few)
        start = len(rates)
        for kind, grid in (("roc", _ALARM_RATES), ("precision_recall", _RECALLS)):
            values, lows, highs = (part[start : start + len(grid)] for part in found[:3])
            columns = ("false_alarms", "recall") if kind == "roc" else ("recall", "precision")
            stated = dict(zip((*columns, "low", "high"), (grid, values, lows, highs), strict=True))
            curves[kind].append(pd.DataFrame({"class": name, **stated}))
            start += len(grid)
    tables = {"operating_points": pd.DataFrame(points, columns=_COLUMNS)}
    tables |= {kind: pd.concat(parts, ignore_index=True) for kind, parts in curves.items() if parts}
    return metrics, tables


def _build_point(
    block: IntervalOptions, scores: Reals, positive: NDArray[np.bool_], groups: NDArray[np.generic], rate: float
) -> dict[str, float]:
    """Return the threshold of a rate, NaN if none keeps it, and the false alarms seen there, with their upper end."""
    threshold = operating_points.find_threshold(scores, positive, rate)
    seen = compute_proportion(block, scores[~positive] >= threshold, groups[~positive])
    return {
        "false_alarms": rate,
        "threshold": threshold if np.isfinite(threshold) else np.nan,
        "n": int(positive.sum()),
        "others": int((~positive).sum()),
        "other_groups": seen.units or 0,
        "seen": seen.value or 0.0,
        "seen_high": seen.high or 0.0,
        "n_required": risk_control.count_required(rate, block.level),
    }


def _compute_curves(
    block: IntervalOptions,
    scores: Reals,
    positive: NDArray[np.bool_],
    units: Units,
    rates: Sequence[float],
) -> _Curves:
    """Compute both curves with their intervals: bootstraps by unit, in which thresholds are chosen anew.

    Where all resamples agree, as at a recall of 1, it is Wilson's interval over the units of the images found.
    """
    recalls = _build_recalls((*rates, *_ALARM_RATES))
    precisions = [partial(operating_points.compute_precision_at, recall=recall) for recall in _RECALLS]
    statistic = detection.build_roc_statistic(scores, positive, [*recalls, *precisions])
    values = statistic(np.ones((1, len(scores))))[0]
    lows, highs = stats.bootstrap_interval(
        statistic, units, block.resamples, block.level, block.seed, bounds=PROPORTION
    )
    counts = units.take(positive).count * np.append(np.ones(len(rates) + len(_ALARM_RATES)), _RECALLS)
    collapsed = ~(highs - lows > _ROUNDING)
    for place in np.flatnonzero(collapsed).tolist():
        n = max(1, round(counts[place]))
        lows[place], highs[place] = stats.wilson(n * values[place], n, block.level)
    methods = np.where(collapsed, f"wilson by {units.drawn}", f"bootstrap by {units.drawn}")
    return _Curves(values, lows, highs, methods)


def _build_recalls(rates: Sequence[float]) -> list[partial[Floats]]:
    return [partial(operating_points.compute_recall_at, rate=rate) for rate in rates]
