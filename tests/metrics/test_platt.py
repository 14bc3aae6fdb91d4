"""Scaling of a score: against statsmodels on any scale, with outliers, and at the ends of its range."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import balanced_accuracy_score
from statsmodels.api import Logit

from avatar_bench.metrics.platt import compute_balanced_accuracy, find_fences, fit_platt

RNG = np.random.default_rng(0)
POSITIVE = RNG.random(400) < 0.3
SCORES = RNG.normal(size=400) + 2 * POSITIVE


@pytest.mark.parametrize(("factor", "centre"), [(1, 0), (1e-4, 0), (300, 0), (5, 1000)])
def test_slope_and_intercept_are_those_of_statsmodels_on_any_scale(factor: float, centre: float) -> None:
    scores = factor * SCORES + centre
    intercept, slope = Logit(POSITIVE, np.column_stack([np.ones(400), SCORES])).fit(disp=False).params
    found = fit_platt(scores, POSITIVE)
    assert found.slope * factor == pytest.approx(slope, rel=1e-4)
    np.testing.assert_allclose(found.slope * scores + found.intercept, slope * SCORES + intercept, atol=1e-3)
    quarters = np.quantile(SCORES, [0.25, 0.75])
    assert found.steepness == pytest.approx(slope * (quarters[1] - quarters[0]), rel=1e-4)


@pytest.mark.parametrize("prevalence", [0.05, 0.5])
def test_the_mean_probability_is_the_prevalence(prevalence: float) -> None:
    positive = np.arange(400) < 400 * prevalence
    scores = np.random.default_rng(1).normal(size=400) + positive
    found = fit_platt(scores, positive)
    assert expit(found.slope * scores + found.intercept).mean() == pytest.approx(prevalence, abs=1e-5)


@pytest.mark.parametrize("outlier", [1e4, -1e4, 1e30])
def test_an_outlier_counts_as_a_score_at_the_fence(outlier: float) -> None:
    low, high = find_fences(np.append(SCORES, outlier))
    found = fit_platt(np.append(SCORES, outlier), np.append(POSITIVE, True))
    assert found == fit_platt(np.append(SCORES, np.clip(outlier, low, high)), np.append(POSITIVE, True))
    without = fit_platt(SCORES, POSITIVE)
    before, now = (expit(one.slope * SCORES + one.intercept) for one in (without, found))
    assert np.abs(now - before).max() < 0.1


def test_fences_are_three_interquartile_ranges_away() -> None:
    assert find_fences(np.arange(101)) == (25 - 150, 75 + 150)
    assert find_fences([0, 0, 0, 0, 7]) == (0, 7)


def test_the_range_of_the_steepness_ends_where_nothing_determines_it() -> None:
    separated, reversed_order = fit_platt(np.arange(40), np.arange(40) >= 20), fit_platt(-SCORES, POSITIVE)
    assert (separated.steepness, reversed_order.steepness) == pytest.approx((20, 0.05))
    assert -separated.intercept / separated.slope == pytest.approx(19.5, abs=1e-3)


@pytest.mark.parametrize(("scores", "positive"), [([1, 1], [0, 1]), ([1, 2], [1, 1]), ([1, 2], [0, 0]), ([], [])])
def test_without_two_scores_or_a_kind_of_image_there_is_no_scaling(scores: list[float], positive: list[int]) -> None:
    with pytest.raises(ValueError, match="needs two scores"):
        fit_platt(scores, np.array(positive, dtype=bool))


def test_balanced_accuracy_is_that_of_scikit_learn() -> None:
    scores = np.round(SCORES, 1)  # with ties
    tried = [*np.unique(scores), 99.0]
    expected = [balanced_accuracy_score(POSITIVE, scores >= one) for one in tried]
    np.testing.assert_allclose(compute_balanced_accuracy(scores, POSITIVE, tried), expected, atol=1e-12)
