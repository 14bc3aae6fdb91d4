"""Tests of selective prediction."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_bench.metrics import selective


def answers(n=60, distinct=1000, seed=0):
    generator = np.random.default_rng(seed)
    confidence = generator.integers(0, distinct, n) / distinct
    return confidence, generator.random(n) < 0.3 + 0.6 * confidence


def aurc(confidence, correct, weights=None):
    statistic = selective.build_aurc_statistic(confidence, correct)
    return statistic(np.ones((1, len(confidence))))[0] if weights is None else statistic(weights)


def counted(confidence, correct):
    """AURC by its definition: the mean error rate of the images at least as confident as each."""
    return np.mean([1 - correct[confidence >= least].mean() for least in confidence])


def test_risk_and_coverage_are_those_counted_by_hand():
    coverage, risk = selective.risk_coverage(np.array([0.9, 0.5, 0.7, 0.7]), [True, False, True, False])
    np.testing.assert_allclose(coverage, [1 / 4, 3 / 4, 3 / 4, 1])
    np.testing.assert_allclose(risk, [0, 1 / 3, 1 / 3, 1 / 2])


def test_aurc_without_equals_is_the_mean_of_the_running_error_rate():
    confidence, correct = answers()
    confidence = confidence + np.arange(60) * 1e-9
    errors = ~correct[np.argsort(-confidence)]
    expected = np.mean(np.cumsum(errors) / np.arange(1, 61))
    assert aurc(confidence, correct) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("distinct", [2, 7, 1000])
def test_aurc_with_equals_does_not_depend_on_the_order(distinct):
    confidence, correct = answers(distinct=distinct)
    assert aurc(confidence, correct) == pytest.approx(counted(confidence, correct), abs=1e-12)
    assert aurc(confidence[::-1], correct[::-1]) == pytest.approx(counted(confidence, correct), abs=1e-12)


def test_a_confidence_that_says_nothing_gives_the_error_rate():
    _, correct = answers()
    assert aurc(np.full(60, 0.5), correct) == pytest.approx(1 - correct.mean())


def test_the_best_order_is_below_and_the_worst_above_every_other():
    confidence, correct = answers()
    best, worst = (aurc(sign * correct.astype(float), correct) for sign in (1, -1))
    assert best < aurc(confidence, correct) < worst
    assert aurc(confidence, np.ones(60, bool)) == 0


@pytest.mark.parametrize("distinct", [5, 1000])
def test_a_weight_counts_as_so_many_copies(distinct):
    confidence, correct = answers(distinct=distinct)
    weights = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), size=20).astype(float)
    found = aurc(confidence, correct, weights)
    for row, value in zip(weights.astype(int), found, strict=True):
        assert value == pytest.approx(counted(np.repeat(confidence, row), np.repeat(correct, row)), abs=1e-12)


def test_thresholds_reach_the_coverage_asked_for_and_no_more():
    confidence = np.arange(1, 21) / 20
    for share, least in zip(
        (0.05, 0.1, 0.5, 0.93, 1), selective.thresholds([0.05, 0.1, 0.5, 0.93, 1], confidence), strict=True
    ):
        assert (confidence >= least).mean() >= share
        assert (confidence > least).mean() < share


def test_one_answer_is_a_curve():
    coverage, risk = selective.risk_coverage(np.array([1.0]), [False])
    assert (coverage.tolist(), risk.tolist()) == ([1.0], [1.0])
    assert aurc(np.array([1.0]), [False]) == 1
    assert selective.thresholds([0.05, 1], np.array([1.0])).tolist() == [1.0, 1.0]


def test_costs_of_abstaining_are_those_counted_by_hand():
    confidence, correct = np.array([0.95, 0.8, 0.6, 0.4]), [True, False, True, False]
    losses = selective.abstention_losses(confidence, correct, [0.0, 0.1, 0.3, 1.0])
    np.testing.assert_allclose(losses.T, [[0, 0, 0, 0], [0, 0.1, 0.1, 0.1], [0, 1, 0.3, 0.3], [0, 1, 0, 1]])
    # answering one, three or all costs .25 (0 + 3 d), .25 (1 + d), .5; none costs d
    best = selective.best_abstention_costs(confidence, correct, [0.0, 0.1, 0.9])
    np.testing.assert_allclose(best, [0, 0.075, 0.475])
    equal = selective.best_abstention_costs(np.full(4, 0.5), correct, [0.1, 0.9])
    np.testing.assert_allclose(equal, [0.1, 0.5])  # all or none
