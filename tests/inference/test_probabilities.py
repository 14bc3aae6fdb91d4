"""Rows of probabilities are divided by their sum or refused; scores keep their order, and are found again."""

import math

import numpy as np
import pytest

from avatar_bench.inference.foreign_tables import ScoreScale
from avatar_bench.inference.predictor import MAX_SUM_ERROR, ImproperError, normalise_rows

SCORES = 30 * np.random.default_rng(0).normal(size=200) + 500


def test_rows_are_divided_by_their_sum_and_one_that_is_none_is_named():
    rows = normalise_rows([[0.2, 0.8005], [0.0, 1.0]])
    np.testing.assert_allclose(rows, [[0.2 / 1.0005, 0.8005 / 1.0005], [0, 1]], rtol=1e-15)
    np.testing.assert_allclose(normalise_rows([[0.33, 0.33, 0.33]]), 1 / 3, rtol=1e-15)  # written with two decimals
    assert normalise_rows(np.zeros((0, 2))).shape == (0, 2)
    for row in ([0.5, 0.5 + 2 * MAX_SUM_ERROR], [-0.1, 1.1], [math.nan, 1], [math.inf, 0]):
        with pytest.raises(ImproperError, match="2 rows are no probabilities, first row 1") as caught:
            normalise_rows([[0.5, 0.5], row, [0.1, 0.9], row])
        assert caught.value.total == pytest.approx(sum(row), nan_ok=True)


@pytest.mark.parametrize("threshold", [None, 480.0])
def test_outliers_change_no_other_log_odds_and_keep_their_order(threshold):
    plain = ScoreScale.of(SCORES, threshold)
    scores = np.append(SCORES, [-1e9, 1e5, 1e12, 1e20])
    scale = ScoreScale.of(scores, threshold)
    assert scale == plain
    log_odds = scale.to_log_odds(scores, threshold)
    np.testing.assert_allclose(np.abs(log_odds[:200]).max(), 20)
    np.testing.assert_array_equal(np.argsort(log_odds), np.argsort(scores))
    assert np.abs(log_odds).max() < 87  # of the least probability in 32 bits
    if threshold is not None:
        assert scale.to_log_odds(threshold, threshold) == 0


def test_small_log_odds_and_probabilities_stay_and_a_score_is_found_again_from_its_log_odds():
    log_odds = np.linspace(-3, 4, 50)
    np.testing.assert_allclose(ScoreScale.of(log_odds, None).to_log_odds(log_odds, None), log_odds)
    half = np.array([0.5, 0.2, 0.9])
    assert ScoreScale.of(half, None).is_probability
    np.testing.assert_allclose(ScoreScale.of(half, None).to_log_odds(half, None), np.log(half / (1 - half)), atol=1e-12)
    for scale in (ScoreScale(True), ScoreScale(), ScoreScale(factor=0.01)):
        for threshold in (None, 0.3):
            scores = [0.001, 0.3, 0.9] if scale.is_probability else [-5e4, -7.0, 0.0, 3.0, 1e5]
            recovered = [scale.to_score(float(scale.to_log_odds(score, threshold)), threshold) for score in scores]
            assert recovered == pytest.approx(scores, rel=1e-9, abs=1e-12)
