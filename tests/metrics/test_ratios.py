"""Tests of quotients and means with NaN."""

from __future__ import annotations

import numpy as np

from avatar_bench.metrics.ratios import nan_mean, ratio
from avatar_bench.metrics.stats import build_mean_statistic


def test_a_quotient_is_nan_where_nothing_is_counted():
    np.testing.assert_array_equal(ratio([[1, 2], [3, 0]], [[2], [0]]), [[0.5, 1.0], [np.nan, np.nan]])


def test_what_is_nan_is_left_out_of_a_mean():
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(nan_mean(values, axis=1), [2, np.nan])
    assert nan_mean(values) == 2


def test_weighted_means_leave_missing_values_out():
    weights, values = np.array([[1.0, 2.0, 1.0], [0.0, 0.0, 1.0]]), np.array([[1.0], [4.0], [np.nan]])
    np.testing.assert_allclose(build_mean_statistic(values)(weights), [[3.0], [np.nan]])
