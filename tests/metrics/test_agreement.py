"""Tests of the figures of agreement, against scikit-learn, statsmodels, numpy and counts by hand."""

import numpy as np
import pytest
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import Table2x2
from statsmodels.stats.inter_rater import cohens_kappa

from avatar_bench.metrics import agreement
from avatar_bench.metrics.classification import confusion_matrix


@pytest.fixture
def pair():
    """Return targets and the predictions of two networks that err together more than by chance."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 400)
    hard = rng.random(400) < 0.3
    first, second = (np.where(hard & (rng.random(400) < 0.6), rng.integers(0, 3, 400), targets) for _ in range(2))
    return targets, first, second


def hits_of(targets, first, second):
    return confusion_matrix((first == targets).astype(int), (second == targets).astype(int), 2)


def test_kappa_equals_sklearn_and_statsmodels(pair):
    _, first, second = pair
    answers = confusion_matrix(first, second, 3)
    assert agreement.kappa(answers) == pytest.approx(sk.cohen_kappa_score(first, second))
    assert agreement.kappa(answers) == pytest.approx(cohens_kappa(answers).kappa)
    assert agreement.PREDICTION_MEASURES["agreement"](answers) == pytest.approx(sk.accuracy_score(first, second))


def test_q_equals_that_of_the_odds_ratio_of_statsmodels(pair):
    odds = Table2x2(hits_of(*pair)).oddsratio
    assert agreement.q_statistic(hits_of(*pair)) == pytest.approx((odds - 1) / (odds + 1))


def test_error_correlation_equals_matthews_and_pearson(pair):
    targets, first, second = pair
    ours, theirs = first != targets, second != targets
    correlation = agreement.error_correlation(hits_of(*pair))
    assert correlation == pytest.approx(sk.matthews_corrcoef(ours, theirs))
    assert correlation == pytest.approx(np.corrcoef(ours, theirs)[0, 1])


def test_disagreement_and_double_fault_are_counted(pair):
    targets, first, second = pair
    ours, theirs = first == targets, second == targets
    assert agreement.disagreement(hits_of(*pair)) == pytest.approx((ours != theirs).mean())
    assert agreement.double_fault(hits_of(*pair)) == pytest.approx((~ours & ~theirs).mean())


def test_all_figures_of_eight_images_by_hand():
    targets = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    first = np.array([0, 0, 0, 1, 1, 1, 1, 0])  # wrong on the fourth and the last
    second = np.array([0, 0, 1, 1, 1, 1, 0, 1])  # wrong on the third, the fourth and the seventh
    measures = dict(zip(agreement.MEASURES, agreement.compute_measures((first, second), targets, 2), strict=True))
    assert measures["agreement"] == 5 / 8
    assert measures["kappa"] == pytest.approx((5 / 8 - 0.5) / 0.5)
    assert measures["disagreement"] == 3 / 8
    assert measures["double_fault"] == 1 / 8
    assert measures["q_statistic"] == pytest.approx((1 * 4 - 2 * 1) / (1 * 4 + 2 * 1))
    assert measures["error_correlation"] == pytest.approx((1 * 4 - 2 * 1) / np.sqrt(2 * 6 * 3 * 5))


def test_two_perfect_networks_have_no_q_and_no_error_correlation():
    targets = np.arange(30) % 3
    measures = dict(zip(agreement.MEASURES, agreement.compute_measures((targets, targets), targets, 3), strict=True))
    assert (measures["agreement"], measures["kappa"], measures["disagreement"], measures["double_fault"]) == (
        1,
        1,
        0,
        0,
    )
    assert np.isnan([measures["q_statistic"], measures["error_correlation"]]).all()


def test_networks_that_are_always_wrong_fail_together():
    targets = np.arange(30) % 3
    measures = dict(
        zip(
            agreement.MEASURES,
            agreement.compute_measures(((targets + 1) % 3, (targets + 2) % 3), targets, 3),
            strict=True,
        )
    )
    assert (measures["double_fault"], measures["agreement"], measures["disagreement"]) == (1, 0, 0)
    assert measures["kappa"] == pytest.approx(-0.5)
    assert np.isnan(measures["q_statistic"])


def test_networks_that_say_one_class_have_no_kappa():
    table = confusion_matrix(np.zeros(5, int), np.zeros(5, int), 3)
    assert agreement.PREDICTION_MEASURES["agreement"](table) == 1
    assert np.isnan(agreement.kappa(table))


def test_opposite_errors_have_a_q_of_minus_one():
    targets = np.zeros(10, int)
    first, second = (np.arange(10) < 5).astype(int), (np.arange(10) >= 5).astype(int)
    measures = dict(zip(agreement.MEASURES, agreement.compute_measures((first, second), targets, 2), strict=True))
    assert (measures["q_statistic"], measures["error_correlation"], measures["disagreement"]) == (
        -1,
        pytest.approx(-1),
        1,
    )


def test_weights_count_images_as_often_as_they_are_drawn(pair):
    targets, first, second = pair
    drawn = np.random.default_rng(1).integers(0, 400, (5, 400))
    weights = np.stack([np.bincount(rows, minlength=400) for rows in drawn])
    measures = agreement.compute_measures((first, second), targets, 3, weights)
    expected = [agreement.compute_measures((first[rows], second[rows]), targets[rows], 3) for rows in drawn]
    np.testing.assert_allclose(measures, expected)


def test_probabilities_of_the_true_class_are_correlated_as_numpy_does():
    ours, theirs = np.random.default_rng(2).random((2, 50))
    assert agreement.probability_correlation(ours, theirs) == pytest.approx(np.corrcoef(ours, theirs)[0, 1])
    assert agreement.probability_correlation(ours, ours) == pytest.approx(1)
    assert np.isnan(agreement.probability_correlation(ours, np.full(50, 0.3)))
