"""Confidence on the in-domain and out-of-domain sets, over all images and by predicted class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.intervals import IntervalOptions, bootstrap_metrics
from avatar_bench.evaluation.ood_sets import OutOfDomainSet
from avatar_bench.metrics import stats
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric

CONFIDENCE_STATISTICS = ("mean_confidence", "std_confidence")


def measure_confidence(
    intervals: IntervalOptions, name: str, inside: Predictions, sets: Sequence[OutOfDomainSet]
) -> tuple[dict[str, Metric], pd.DataFrame]:
    """Return the metrics of confidence by set, and a table by set and predicted class, "" for all images."""
    metrics: dict[str, Metric] = {}
    rows = []
    for of, kind, predictions in [(name, "in_domain", inside), *((s.name, s.kind, s.predictions) for s in sets)]:
        found = _measure_set(intervals, kind, predictions)
        metrics |= {f"{figure}/{of}": found[figure, ""] for figure in CONFIDENCE_STATISTICS}
        counts = np.bincount(predictions.predicted, minlength=len(predictions.classes)).tolist()
        for label, n in [("", len(predictions)), *zip(predictions.classes, counts, strict=True)]:
            row = {"set": of, "kind": kind, "class": label, "n": n, "share": n / len(predictions)}
            for figure in CONFIDENCE_STATISTICS:
                metric = found[figure, label]
                row |= {figure: metric.value, f"{figure}_low": metric.low, f"{figure}_high": metric.high}
            rows.append(row)
    numbers = [f"{figure}{end}" for figure in CONFIDENCE_STATISTICS for end in ("", "_low", "_high")]
    return metrics, pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))


def _measure_set(intervals: IntervalOptions, kind: str, predictions: Predictions) -> dict[tuple[str, str], Metric]:
    """Return mean and standard deviation of the confidence by predicted class, with "" for all images."""
    confidence, classes = predictions.confidence, predictions.classes
    parts = np.column_stack([np.ones(len(predictions)), np.eye(len(classes))[predictions.predicted]])

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.hstack(stats.weighted_moments(weights, confidence, parts))

    names = [(figure, label) for figure in CONFIDENCE_STATISTICS for label in ("", *classes)]
    keys = ["/".join(name) for name in names]
    low_is_good = kind in ("near", "far")  # in the domain, confidence should match accuracy instead
    better = {key: False if low_is_good and key.startswith(CONFIDENCE_STATISTICS[0]) else None for key in keys}
    why = Reason("too_few_predicted")
    found = bootstrap_metrics(intervals, keys, statistic, predictions.units, better, reason=why)
    return dict(zip(names, found.values(), strict=True))
