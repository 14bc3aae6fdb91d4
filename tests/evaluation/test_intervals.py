"""Metrics with confidence intervals, and gaps between slices, against Newcombe by hand and by simulation."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from avatar_bench.errors import ConfigError
from avatar_bench.evaluation.intervals import (
    IntervalOptions,
    bootstrap_metrics,
    compute_proportion,
    find_gap,
    make_gap_metric,
    metric_with_interval,
)
from avatar_bench.metrics import stats
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric


def test_a_resampled_figure_bears_its_ends_or_says_why_it_has_none():
    nan, same, few = float("nan"), Reason("no_spread"), Reason("too_few_classes")
    whole = metric_with_interval(np.float64(0.5), np.float64(0.4), np.float64(0.6), 9, "bootstrap", None, 0.1, few)
    assert whole == Metric(0.5, 9, 0.4, 0.6, "bootstrap", None, floor=0.1)
    assert all(type(number) is float for number in (whole.value, whole.low, whole.high))
    for low, high in ((0.5, 0.5), (0.5, np.nextafter(0.5, 1)), (nan, nan), (0.4, nan)):
        metric = metric_with_interval(0.5, low, high, 9, "bootstrap", False, reason=few)
        assert metric == Metric(0.5, 9, higher_is_better=False, reason=same)
    assert metric_with_interval(nan, nan, nan, 0, "bootstrap", reason=few) == Metric(None, 0, reason=few)
    with pytest.raises(ValueError, match="needs a reason"):
        metric_with_interval(nan, nan, nan, 0, "bootstrap")


def test_proportions_and_metrics_of_one_bootstrap_have_their_intervals_directions_and_reasons():
    hits, groups = np.array([True, True, False, True]), np.array(["a", "b", "c", "d"])
    metric = compute_proportion(IntervalOptions(), hits, groups, floor=0.5)
    low, high = stats.wilson(3, 4, 0.95)
    assert (metric.value, metric.n, metric.interval, metric.floor) == (0.75, 4, "wilson", 0.5)
    assert (metric.low, metric.high) == pytest.approx((low, high))
    for options in ({"level": 0.0}, {"level": 1.0}, {"resamples": 99}, {"seed": -1}):
        with pytest.raises(ConfigError, match="expected"):
            IntervalOptions(**options)
    values = np.array([1.0, 2.0, 4.0, 8.0])

    def statistic(weights):
        mean = weights @ values / weights.sum(axis=1)
        return np.column_stack([mean, np.full(len(weights), np.nan)])

    metrics = bootstrap_metrics(
        IntervalOptions(resamples=200), ["mean", "none"], statistic, list("abcd"), {"mean": False, "none": True}
    )
    assert metrics["mean"].value == 3.75
    assert metrics["mean"].low < 3.75 < metrics["mean"].high
    assert metrics["mean"].higher_is_better is False
    assert metrics["none"] == Metric(None, 4, reason=Reason("too_few_classes"))


def make_hits(*counts):
    """Return the hits of slices of (hits, images) each."""
    hits = np.full((sum(n for __, n in counts), len(counts)), np.nan)
    start = 0
    for index, (k, n) in enumerate(counts):
        hits[start : start + n, index] = np.arange(n) < k
        start += n
    return hits


def find(hits, minimum=1, groups=None, resamples=200):
    groups = np.arange(len(hits)) if groups is None else groups
    return find_gap(IntervalOptions(resamples=resamples), list("abc")[: hits.shape[1]], hits, groups, minimum)


def test_the_gap_of_two_slices_has_newcombes_interval_of_groups():
    gap = find(make_hits((40, 50), (30, 60)))
    first, second = (binomtest(k, n).proportion_ci(0.95, "wilson") for k, n in ((40, 50), (30, 60)))
    low = 0.3 - math.hypot(0.8 - first.low, second.high - 0.5)
    high = 0.3 + math.hypot(first.high - 0.8, 0.5 - second.low)
    assert (gap["gap"], gap["low"], gap["high"]) == pytest.approx((0.3, low, high))
    assert (gap["highest"], gap["lowest"], gap["slices"], gap["units"]) == ("a", "b", 2, 110)
    turned = find(make_hits((30, 60), (40, 50)))
    assert (turned["low"], turned["high"], turned["highest"]) == pytest.approx((low, high, "b"))
    assert make_gap_metric(gap).higher_is_better is False
    hits = make_hits((40, 50), (30, 60))
    grouped = find(np.repeat(hits, 3, axis=0), groups=np.repeat(np.arange(110), 3), resamples=1000)
    assert grouped["units"] == 110  # images of a group count once
    assert (grouped["low"], grouped["high"]) == pytest.approx((low, high), abs=0.03)


def test_gaps_of_small_slices_do_not_count_and_intervals_contain_the_true_gap_as_often_as_they_say():
    assert find(make_hits((5, 5), (0, 2), (0, 0)), minimum=3) is None
    gap = find(make_hits((5, 5), (0, 2), (0, 0)))
    assert (gap["slices"], gap["gap"]) == (2, 1.0)
    equal = find(make_hits((5, 10), (5, 10)))
    assert (equal["gap"], equal["low"]) == (0.0, 0.0)
    assert equal["high"] > 0
    rng, truth = np.random.default_rng(0), np.array([0.9, 0.8, 0.85])
    held = 0
    for _ in range(300):
        gap = find(make_hits(*((rng.binomial(80, p), 80) for p in truth)))
        held += gap["low"] <= 0.1 <= gap["high"]
    assert held >= 0.95 * 300 - 1.64 * math.sqrt(300 * 0.95 * 0.05)
