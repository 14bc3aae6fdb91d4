"""Metrics with confidence intervals."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_bench.errors import ConfigError
from avatar_bench.evaluation.intervals import (
    IntervalOptions,
    bootstrap_metrics,
    compute_proportion,
    metric_with_interval,
)
from avatar_bench.metrics import stats
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric


def test_a_resampled_figure_bears_its_ends_or_says_why_it_has_none() -> None:
    nan, same, few = float("nan"), Reason("no_spread"), Reason("too_few_classes")
    whole = metric_with_interval(np.float64(0.5), np.float64(0.4), np.float64(0.6), 9, "bootstrap", None, 0.1, few)
    assert whole == Metric(0.5, 9, 0.4, 0.6, "bootstrap", None, floor=0.1)
    assert all(type(number) is float for number in (whole.value, whole.low, whole.high))
    for low, high in ((0.5, 0.5), (0.5, np.nextafter(0.5, 1)), (nan, nan), (0.4, nan)):
        found = metric_with_interval(0.5, low, high, 9, "bootstrap", False, reason=few)
        assert found == Metric(0.5, 9, higher_is_better=False, reason=same)
    assert metric_with_interval(nan, nan, nan, 0, "bootstrap", reason=few) == Metric(None, 0, reason=few)
    with pytest.raises(ValueError, match="needs a reason"):
        metric_with_interval(nan, nan, nan, 0, "bootstrap")


def test_a_proportion_has_the_interval_of_its_groups() -> None:
    hits, groups = np.array([True, True, False, True]), np.array(["a", "b", "c", "d"])
    found = compute_proportion(IntervalOptions(), hits, groups, floor=0.5)
    low, high = stats.wilson(3, 4, 0.95)
    assert (found.value, found.n, found.interval, found.floor) == (0.75, 4, "wilson", 0.5)
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(high)


def test_metrics_of_one_bootstrap_keep_their_directions_and_reasons() -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0])

    def statistic(weights: np.ndarray) -> np.ndarray:
        mean = weights @ values / weights.sum(axis=1)
        return np.column_stack([mean, np.full(len(weights), np.nan)])

    found = bootstrap_metrics(
        IntervalOptions(resamples=200), ["mean", "none"], statistic, list("abcd"), {"mean": False, "none": True}
    )
    assert found["mean"].value == 3.75
    assert found["mean"].low < 3.75 < found["mean"].high  # type: ignore[operator]
    assert found["mean"].higher_is_better is False
    assert found["none"] == Metric(None, 4, reason=Reason("too_few_classes"))


@pytest.mark.parametrize("given", [{"level": 0.0}, {"level": 1.0}, {"resamples": 99}, {"seed": -1}])
def test_impossible_options_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        IntervalOptions(**given)  # type: ignore[arg-type]
