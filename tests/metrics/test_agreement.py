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


def measure(targets, first, second, classes=3):
    return dict(zip(agreement.MEASURES, agreement.compute_measures((first, second), targets, classes), strict=True))


def test_measures_equal_sklearn_statsmodels_and_numpy(pair):
    targets, first, second = pair
    ours, theirs = first == targets, second == targets
    odds = Table2x2(confusion_matrix(ours.astype(int), theirs.astype(int), 2)).oddsratio
    expected = {
        "agreement": sk.accuracy_score(first, second),
        "kappa": sk.cohen_kappa_score(first, second),
        "disagreement": (ours != theirs).mean(),
        "q_statistic": (odds - 1) / (odds + 1),
        "double_fault": (~ours & ~theirs).mean(),
        "error_correlation": sk.matthews_corrcoef(ours, theirs),
    }
    assert measure(*pair) == pytest.approx(expected)
    assert expected["kappa"] == pytest.approx(cohens_kappa(confusion_matrix(first, second, 3)).kappa)
    assert expected["error_correlation"] == pytest.approx(np.corrcoef(ours, theirs)[0, 1])


def test_measures_by_hand_and_at_their_edges():
    nan, thirty, half = np.nan, np.arange(30) % 3, (np.arange(10) < 5).astype(int)
    # the first network is wrong on the fourth and the last image, the second on the third, fourth and seventh
    eight = np.array([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 0, 1]])
    names = ("agreement", "kappa", "disagreement", "q_statistic", "double_fault", "error_correlation")
    for answers, expected in (
        (eight, (5 / 8, (5 / 8 - 0.5) / 0.5, 3 / 8, (4 - 2) / (4 + 2), 1 / 8, (4 - 2) / (2 * 6 * 3 * 5) ** 0.5)),
        ((thirty, thirty, thirty), (1, 1, 0, nan, 0, nan)),  # two perfect networks
        ((thirty, (thirty + 1) % 3, (thirty + 2) % 3), (0, -0.5, 0, nan, 1, nan)),  # always wrong
        ((0 * half, half, 1 - half), (0, -1, 1, -1, 0, -1)),  # opposite errors
        ((half, 0 * half, 0 * half), (1, nan, 0, 1, 0.5, 1)),  # one class alone
    ):
        measured = measure(*answers)
        assert [measured[name] for name in names] == pytest.approx(expected, nan_ok=True)


def test_weights_count_images_as_often_as_they_are_drawn_and_probabilities_are_correlated_as_numpy_does(pair):
    targets, first, second = pair
    drawn = np.random.default_rng(1).integers(0, 400, (5, 400))
    weights = np.stack([np.bincount(rows, minlength=400) for rows in drawn])
    measures = agreement.compute_measures((first, second), targets, 3, weights)
    expected = [agreement.compute_measures((first[rows], second[rows]), targets[rows], 3) for rows in drawn]
    np.testing.assert_allclose(measures, expected)
    ours, theirs = np.random.default_rng(2).random((2, 50))
    assert agreement.probability_correlation(ours, theirs) == pytest.approx(np.corrcoef(ours, theirs)[0, 1])
    assert agreement.probability_correlation(ours, ours) == pytest.approx(1)
    assert np.isnan(agreement.probability_correlation(ours, np.full(50, 0.3)))
