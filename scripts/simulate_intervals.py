"""Simulate intervals for new sources: how often those of each metric contain its value, and how wide they are.

Beside them other methods: Student's on the scale of the metric itself ("linear"), for shares Wilson's with the
effective number of sources and Student's quantile ("wilson"), for other metrics log-odds and logarithms that a single
source may move without limit ("unlimited").
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
from scipy.special import logit, softmax
from scipy.stats import norm, t
from simulate_slices import draw_sizes

from avatar_bench.metrics import calibration, classification, stats
from avatar_bench.metrics.units import Units

CLASSES = 3
SPREAD = 0.75  # of the scores of sources, where those of images of a source have 1
OTHERS = ("macro_f1", "f1", "auroc", "nll", "brier")
BOUNDS = ([0.0] * 5, [1.0, 1.0, 1.0, np.inf, 2.0])


def simulate_intervals(
    draws: int, counts: tuple[int, ...] = (3, 4, 5, 6, 9, 15, 24, 30, 60)
) -> Iterator[dict[str, Any]]:
    """Yield, of sets of so many sources, the coverage and the mean width of the intervals of each metric.

    The recall is that of one class, which has a third of the sources. Without an interval a draw counts in neither.
    """
    for mean, sizes, sources in product((0.75, 0.9), ("equal", "53", "log-normal"), counts):
        found: dict[tuple[str, str], list[tuple[bool, float]]] = {}
        for seed in range(draws):
            scores, targets, source = draw_scores(np.random.default_rng(seed), sources, sizes, mean)
            for name, low, high, true in list_ends(scores, targets, source, mean):
                if not np.isnan(low):
                    found.setdefault(name, []).append((low - 1e-9 <= true <= high + 1e-9, high - low))
        for (name, method), rows in found.items():
            coverage, width = np.array(rows, dtype=float).mean(axis=0)
            case = {"mean": mean, "sizes": sizes, "sources": sources, "metric": name, "method": method}
            yield case | {"covered": coverage, "width": width}


def list_ends(scores: Any, targets: Any, source: Any, mean: float) -> Iterator[tuple[Any, float, float, float]]:
    """Yield each metric and method with the ends of its interval for new sources, and its value on all sources."""
    units, predicted = Units(np.arange(len(source)), source, targets), scores.argmax(axis=1)
    hits, first = (predicted == targets).astype(float), targets == 0
    mix, truth = np.bincount(targets) / len(targets), find_truth(mean)
    confusion = mix[:, None] * truth["confusion"]
    recalls = np.diag(truth["confusion"])
    few = Units(units.codes[first], source[first], targets[first])
    shares = (
        ("recall", stats.proportion_interval_of_sources(hits[first], few), recalls[0], few),
        ("accuracy", stats.proportion_interval_of_sources(hits, units), float(mix @ recalls), units),
        ("balanced_accuracy", stats.balanced_interval_of_sources(hits, units), float(recalls.mean()), units),
    )
    for name, interval, true, sampled in shares:
        for method, (low, high) in vary_share(interval, max(1, sampled.degrees_of_freedom)).items():
            yield (name, method), low, high, true
    pairs, probabilities = [(targets, predicted)], softmax(scores, axis=1)
    nll, brier = calibration.image_losses(scores, targets), calibration.brier_scores(probabilities, targets)
    statistic = stats.JoinedStatistic(
        [
            classification.build_confusion_statistic(pairs, CLASSES, classification.macro_f1),
            classification.build_confusion_statistic(pairs, CLASSES, lambda tables: classification.f1(tables)[..., 0]),
            classification.build_auroc_statistic(scores[:, 0], first),
            stats.build_mean_statistic(np.column_stack([nll, brier])),
        ]
    )
    methods = {"stated": stats.jackknife_interval(statistic, units, bounds=BOUNDS)}
    methods["linear"] = stats.jackknife_interval(statistic, units)
    with patch.object(stats, "_NEAREST", np.inf):
        methods["unlimited"] = stats.jackknife_interval(statistic, units, bounds=BOUNDS)
    rest = mix[1:] / mix[1:].sum()
    f1 = classification.f1(confusion)
    values = (f1.mean(), f1[0], rest @ truth["auroc"], mix @ truth["nll"], mix @ truth["brier"])
    for method, ends in methods.items():
        for name, low, high, true in zip(OTHERS, *ends, values, strict=True):
            yield (name, method), float(low), float(high), float(true)


def vary_share(interval: stats.Interval, freedom: int) -> dict[str, tuple[float, float]]:
    """Return the ends of a share's interval, and those of other methods with the same variance between sources."""
    ends = {"stated": (interval.low, interval.high)}
    if interval.method != "logit by source":  # all sources agree: Wilson's already
        return ends | dict.fromkeys(("linear", "wilson"), ends["stated"])
    quantile, places = t.isf(0.025, freedom), logit(np.clip(ends["stated"], 1e-9, 1 - 1e-9))
    value, spread = 1 / (1 + np.exp(-places.mean())), (places[1] - places[0]) / 2 / quantile
    error, number = spread * value * (1 - value), 1 / (spread**2 * value * (1 - value))
    ends["linear"] = (value - quantile * error, value + quantile * error)
    return ends | {"wilson": stats.wilson(number * value, number, 1 - 2 * norm.sf(min(quantile, 8)))}


def draw_scores(rng: np.random.Generator, sources: int, sizes: str, mean: float) -> tuple[Any, Any, Any]:
    """Return scores (N, C), targets and sources (N,) of images: the scores of a source are near to one another."""
    source = np.repeat(np.arange(sources), draw_sizes(rng, sources, sizes))
    targets = source % CLASSES
    scores = rng.normal(0, SPREAD, (sources, CLASSES))[source] + rng.normal(size=(len(source), CLASSES))
    return scores + find_shift(mean) * np.eye(CLASSES)[targets], targets, source


@cache
def find_shift(mean: float) -> float:
    """Return by how much the score of the true class is higher, so that it is the highest with a chance of `mean`."""
    noise = np.random.default_rng(1).normal(0, np.hypot(SPREAD, 1), (200_000, CLASSES))
    return float(np.quantile(noise[:, 1:].max(axis=1) - noise[:, 0], mean))


@cache
def find_truth(mean: float) -> dict[str, Any]:
    """Return the metrics of all sources: the confusion by class, and by class AUROC of the first, NLL and Brier."""
    noise = np.random.default_rng(2).normal(0, np.hypot(SPREAD, 1), (200_000, CLASSES))
    confusion, nll, brier = np.zeros((CLASSES, CLASSES)), [], []
    for k in range(CLASSES):
        scores, targets = noise + find_shift(mean) * np.eye(CLASSES)[k], np.full(len(noise), k)
        confusion[k] = np.bincount(scores.argmax(axis=1), minlength=CLASSES) / len(scores)
        nll.append(calibration.image_losses(scores, targets).mean())
        brier.append(calibration.brier_scores(softmax(scores, axis=1), targets).mean())
    # the score of the first class is normal in each, and higher there by the shift
    auroc = np.full(CLASSES - 1, norm.cdf(find_shift(mean) / (np.sqrt(2) * np.hypot(SPREAD, 1))))
    return {"confusion": confusion, "auroc": auroc, "nll": np.array(nll), "brier": np.array(brier)}
