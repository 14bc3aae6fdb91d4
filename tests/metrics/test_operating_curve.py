"""Tests of outcomes at thresholds of the confidence, against scikit-learn, scipy and counts by hand."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest
from sklearn import metrics as sk

from avatar_bench.metrics import operating_curve as curve
from avatar_bench.metrics import stats


def test_thresholds_lie_where_confidences_can_and_outcomes_are_those_of_a_confusion_matrix():
    for classes in (2, 3, 40):
        grid = curve.list_thresholds(classes)
        assert (grid[0], grid[-1]) == (0, 1)
        assert (np.diff(grid) > 0).all()
        assert grid[1] > 1 / classes
        assert len(grid) <= 50
        assert {0.9, 0.95, 0.999} < {*grid.tolist()}
    generator = np.random.default_rng(0)
    targets, predicted = generator.integers(0, 3, (2, 200))
    confidence = np.append(generator.uniform(1 / 3, 1, 199), 1.0)
    grid = np.array([0.0, 0.6, 0.9, 1.0])
    for column, threshold in enumerate(grid):
        labels = np.where(confidence >= threshold, predicted, 3)
        matrix = sk.confusion_matrix(targets, labels, labels=[0, 1, 2, 3])[:3]
        answered = matrix[:, :3].sum()
        expected = {("coverage", -1): answered / 200, ("error", -1): 1 - np.trace(matrix) / answered}
        for index in range(3):
            others = np.delete(matrix, index, axis=0)
            expected["recall", index] = matrix[index, index] / matrix[index].sum()
            expected["false_alarms", index] = others[:, index].sum() / others.sum()
        for (name, index), value in expected.items():
            hits = curve.mark_outcomes(confidence, predicted, targets, grid, name, index)
            assert np.nanmean(hits[:, column]) == pytest.approx(value), (name, index, threshold)
    unanswered = np.array([0.9, 0.8]), [0, 1], [0, 0], np.array([1.0])
    assert np.isnan(curve.mark_outcomes(*unanswered, "error", -1)).all()
    assert np.isnan(curve.mark_outcomes(*unanswered, "recall", 1)).all()  # of an absent class
    assert curve.mark_outcomes(*unanswered, "coverage", -1).sum() == 0


def test_a_small_rate_ends_where_the_exact_bound_does_and_precision_is_that_of_a_count_by_hand():
    for events, n in ((0, 300), (1, 600)):
        exact = binomtest(events, n).proportion_ci(0.95, "exact").high
        assert curve.raise_high_end(events / n, 0.0, n, 0.95, False) == pytest.approx(exact)
    assert curve.raise_high_end(0.0, 0.0, 14, 0.95, True) == pytest.approx(1 - 0.025 ** (1 / 14))
    assert curve.raise_high_end(0.02, 0.06, 14, 0.95, True) == pytest.approx(1 - 0.025 ** (1 / 14))  # as without alarms
    assert curve.raise_high_end(0.02, 0.3, 14, 0.95, True) == 0.3
    assert curve.raise_high_end(0.5, 0.99, 40, 0.95, False) == 0.99
    assert curve.raise_high_end(1.0, 1.0, 40, 0.95, False) == 1.0
    called = curve.compute_precision([0.9, 0.8, 0.95], [0.01, 0.005, 0.02], 0.001)
    assert called == pytest.approx([900 / (900 + 9990), 800 / (800 + 19980), 950 / (950 + 4995)])
    high = curve.raise_high_end(0.0, 0.0, 300, 0.975, False)  # never certain without a false alarm
    low = 0.0004 / (0.0004 + 0.999 * (1 - 0.0125 ** (1 / 300)))  # .027
    assert curve.compute_precision([0.5, 0.4, 0.6], [0.0, 0.0, high], 0.001) == pytest.approx((1, low, 1))
    absent = curve.compute_precision([0, 0, 0.1], [0, 0, 0.1], 0.001)  # without a call
    assert absent == pytest.approx((np.nan, 0, 1), nan_ok=True)


@pytest.mark.parametrize(("recall", "rate"), [(0.9, 0.001), (0.9, 0.004), (0.5, 0.02), (0.98, 0.2)])
def test_the_interval_of_the_precision_holds_at_its_level(recall, rate):
    def weigh(n, share, is_raised):
        counts = np.flatnonzero(binom.pmf(np.arange(n + 1), n, share) > 1e-7)
        ends = [stats.wilson(count, n, 0.975) for count in counts.tolist()]
        if is_raised:
            ends = [
                (low, curve.raise_high_end(count / n, high, n, 0.975, False))
                for count, (low, high) in zip(counts.tolist(), ends, strict=True)
            ]
        return binom.pmf(counts, n, share), np.column_stack([counts / n, np.array(ends)]).T

    weights, recalls = weigh(100, recall, False)
    alarm_weights, alarms = weigh(600, rate, True)
    for prevalence in (0.001, 0.3):
        true = curve.compute_precision([recall] * 3, [rate] * 3, prevalence)[0]
        __, lows, highs = curve.compute_precision(recalls[:, :, None], alarms[:, None, :], prevalence)
        holds = (lows <= true) & (true <= highs)
        assert (weights[:, None] * alarm_weights * holds).sum() >= 0.95
