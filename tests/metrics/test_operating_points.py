"""Tests of operating points against scikit-learn and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from avatar_bench.metrics import detection, operating_points, risk_control


def drawn(n=200, distinct=40, seed=0):
    rng = np.random.default_rng(seed)
    positive = np.arange(n) % 3 == 0
    return np.round((rng.normal(size=n) + positive) * distinct / 4), positive


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.3, 1.0])
def test_recall_at_a_rate_of_false_alarms_is_that_of_scikit_learn(rate):
    scores, positive = drawn()
    alarms, recalls, thresholds = sk.roc_curve(positive, scores, drop_intermediate=False)
    allowed = alarms <= rate + 1e-12
    assert operating_points.compute_recall_at(detection.roc(scores, positive), rate) == pytest.approx(
        recalls[allowed].max()
    )
    threshold = operating_points.find_threshold(scores, positive, rate)
    assert (scores[positive] >= threshold).mean() == pytest.approx(recalls[allowed].max())
    assert (scores[~positive] >= threshold).mean() <= rate + 1e-12
    assert threshold in thresholds or not (scores >= threshold).any()


@pytest.mark.parametrize("recall", [0.025, 0.5, 0.9, 1.0])
def test_precision_at_a_recall_is_that_of_scikit_learn(recall):
    scores, positive = drawn(seed=1)
    precisions, recalls, _ = sk.precision_recall_curve(positive, scores)
    expected = precisions[recalls >= recall - 1e-12][-1]  # recalls fall: the last one is of the highest threshold
    found = operating_points.compute_precision_at(detection.roc(scores, positive), recall)
    assert found == pytest.approx(expected)


def test_resamples_are_those_of_the_resampled_images():
    scores, positive = drawn(60, seed=2)
    rows = np.random.default_rng(3).integers(0, 60, 60)
    curve = detection.roc(scores, positive, np.bincount(rows, minlength=60)[None].astype(float))
    again = detection.roc(scores[rows], positive[rows])
    assert operating_points.compute_recall_at(curve, 0.1)[0] == pytest.approx(
        operating_points.compute_recall_at(again, 0.1)
    )


def test_equal_scores_and_absent_images_are_no_finding():
    positive = np.array([True, False, True, False])
    equal = detection.roc(np.ones(4), positive)
    assert operating_points.compute_recall_at(equal, 0.5) == 0
    assert operating_points.compute_recall_at(equal, 1.0) == 1
    assert operating_points.compute_precision_at(equal, 0.1) == pytest.approx(0.5)
    assert operating_points.find_threshold(np.ones(4), positive, 0.5) == math.inf
    only = detection.roc(np.arange(4.0), positive, np.array([[1.0, 0, 1, 0], [0, 1, 0, 1]]))  # one kind in each draw
    assert np.isnan(operating_points.compute_recall_at(only, 0.5)).all()
    assert np.isnan(operating_points.compute_precision_at(only, 0.5)[1])


@pytest.mark.parametrize(("rate", "level", "n"), [(0.01, 0.95, 299), (0.001, 0.95, 2995), (0.5, 0.5, 1)])
def test_the_images_required_are_the_fewest_of_the_exact_binomial_test(rate, level, n):
    assert risk_control.count_required(rate, level) == n
    assert binomtest(0, n, rate, "less").pvalue <= 1 - level + 1e-12
    assert n == 1 or binomtest(0, n - 1, rate, "less").pvalue > 1 - level
