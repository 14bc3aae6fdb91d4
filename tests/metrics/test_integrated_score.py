"""Tests of the numbers behind the integrated score: by hand, at the edges, and against other code."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from scipy import stats
from sklearn.preprocessing import MinMaxScaler

from avatar_bench.metrics import integrated_score, paired_tests


def test_ranges_are_linear_or_logarithmic_and_min_max_equals_scikit_learns():
    for values, ends, options, expected in (
        ([0.0, 1 / 3, 2 / 3, 1.0, 1.2], (1 / 3, 1), {}, [0, 0, 0.5, 1, 1]),
        ([0.0, 0.15, 0.6], (0.6, 0), {}, [1, 0.75, 0]),
        ([1, 10, 100, 1000], (1, 1000), {"log": True}, [0, 1 / 3, 2 / 3, 1]),
        ([1, 10, 100, 1000], (1000, 1), {"log": True}, [1, 2 / 3, 1 / 3, 0]),
        ([np.nan], (0, 1), {}, [np.nan]),
    ):
        scaled = integrated_score.scale_to_range(values, *ends, **options)
        assert scaled == pytest.approx(expected, nan_ok=True)
    values = np.random.default_rng(0).normal(size=9)
    reference = MinMaxScaler().fit_transform(values[:, None])[:, 0]
    assert integrated_score.scale_min_max(values, True) == pytest.approx(reference)
    assert integrated_score.scale_min_max(values, False) == pytest.approx(1 - reference)
    resamples = integrated_score.scale_min_max(values.reshape(3, 3), True)  # each by itself
    assert resamples == pytest.approx(MinMaxScaler().fit_transform(values.reshape(3, 3).T).T)
    assert integrated_score.scale_min_max([2.0, 2.0], True).tolist() == [0.5, 0.5]
    some = np.array([True, True, False])  # fitted on these, and cut off for the other
    assert integrated_score.scale_min_max([0.0, 1.0, 3.0], True, some).tolist() == [0, 1, 1]
    assert integrated_score.scale_min_max([0.0, 1.0, 3.0], False, some[::-1]).tolist() == [1, 1, 0]
    assert integrated_score.scale_min_max([0.0, 1.0, 3.0], True, some[::-1]).tolist() == [0, 0, 1]
    assert np.isnan(integrated_score.scale_min_max([np.nan, 1.0, 2.0], True, some[::-1])[0])


def test_weighted_means_and_shares_of_ranks_equal_a_hand_count():
    expected = (Fraction(1, 2) * 3 + Fraction(1, 4) * 1 + 0) / 8
    assert integrated_score.weighted_mean([0.5, 0.25, 0.0], [3, 1, 4]) == pytest.approx(float(expected))
    several = integrated_score.weighted_mean(np.eye(3), np.array([[[3, 1, 4]], [[1, 1, 0]]]))
    assert several == pytest.approx(np.array([[3 / 8, 1 / 8, 4 / 8], [0.5, 0.5, 0]]))
    assert np.isnan(integrated_score.weighted_mean([[0.5, np.nan]], [1, 1])).all()
    shares = integrated_score.rank_shares([[1, 1, 3], [1, 2, 3]])
    assert shares.tolist() == [[0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0, 1]]
    drawn = paired_tests.ranks(np.random.default_rng(0).integers(0, 4, (50, 5)))
    shares = integrated_score.rank_shares(drawn)
    assert shares.sum(axis=0) == pytest.approx(1)
    assert shares.sum(axis=1) == pytest.approx(1)


def test_the_front_equals_a_search_of_all_pairs():
    values = np.random.default_rng(1).integers(0, 4, (12, 3)) / 3
    expected = [
        not any(all(b >= a for a, b in zip(value, two, strict=True)) and tuple(two) != tuple(value) for two in values)
        for value in values
    ]
    assert integrated_score.pareto_front(values).tolist() == expected
    assert 0 < sum(expected) < 12
    equals_and_dominated = [[1, 0], [1, 0], [0.9, 0], [0, 1]]
    assert integrated_score.pareto_front(equals_and_dominated).tolist() == [True, True, False, True]


@pytest.mark.parametrize("log", [False, True])
def test_draws_have_the_median_and_the_quantiles_of_the_interval(log):
    normal = stats.norm.ppf((np.arange(9999) + 0.5) / 9999)
    drawn = integrated_score.draw_from_interval(normal, 0.8, 0.6, 0.85, 0.9, log)
    assert np.quantile(drawn, [0.05, 0.5, 0.95]) == pytest.approx([0.6, 0.8, 0.85], abs=1e-4)
    below = stats.norm.cdf(*np.log([0.7, 0.8]), np.log(0.8 / 0.6) / stats.norm.ppf(0.95))
    expected = below if log else stats.norm.cdf(0.7, 0.8, 0.2 / stats.norm.ppf(0.95))
    assert (drawn < 0.7).mean() == pytest.approx(expected, abs=1e-3)


def test_draws_and_rank_intervals_end_where_they_should():
    assert integrated_score.draw_from_interval([-2, 0, 2], 0.5, 0.6, 0.7).tolist() == pytest.approx(
        [0.5, 0.5, 0.5 + 0.4 / 1.959964]
    )
    assert integrated_score.draw_from_interval([-2, 0, 2], 0.5, 0.5, 0.5).tolist() == [0.5] * 3
    assert np.isnan(integrated_score.draw_from_interval([-2, 0, 2], np.nan, np.nan, np.nan)).all()
    rank = np.array([[1, 2]] * 97 + [[2, 1]] * 3)
    low, high = integrated_score.rank_interval(rank, 0.95)
    assert (low.tolist(), high.tolist()) == ([1, 1], [2, 2])
    low, high = integrated_score.rank_interval(rank, 0.5)
    assert (low.tolist(), high.tolist()) == ([1, 2], [1, 2])
    for level, column in product((0.5, 0.9), (0, 1)):
        low, high = integrated_score.rank_interval(rank, level)
        held = (rank[:, column] >= low[column]) & (rank[:, column] <= high[column])
        assert held.mean() >= level
