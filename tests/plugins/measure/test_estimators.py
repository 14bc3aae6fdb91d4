"""Estimators of shares: against other libraries, formulas by hand, and how often their intervals hold."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, binomtest

from avatar_bench.metrics.prior_shift import estimate_prior
from avatar_bench.plugins.measure import estimators


def draw(rng, n, share=0.3):
    """Return labels and scores that predict them."""
    labels = (rng.random(n) < share).astype(float)
    return labels, np.clip(rng.normal(0.3 + 0.4 * labels, 0.2), 0.01, 0.99)


@pytest.mark.slow
def test_other_libraries_estimate_the_same():
    from ppi_py import ppi_mean_ci, ppi_mean_pointestimate

    with matplotlib.rc_context():  # quapy changes the style of all figures
        from quapy.method.aggregative import EMQ

    rng = np.random.default_rng(0)
    for n, size in ((40, 5000), (200, 900)):
        labels, scores = draw(rng, n + size)
        first, rest = slice(n), scores[n:]
        share, _ = estimators.prediction_powered_mean(labels[first], scores[first], rest.mean(), rest.var(), size)
        ends = ppi_mean_ci(labels[first], scores[first], rest, alpha=0.05)
        value = ppi_mean_pointestimate(labels[first], scores[first], rest)
        assert np.allclose([share.value, share.low, share.high], np.ravel([value, *ends]), rtol=0, atol=1e-9)
    chances = rng.dirichlet((1, 1, 1), 2000) ** 2
    chances, training = chances / chances.sum(axis=1, keepdims=True), np.array([0.5, 0.3, 0.2])
    ours = estimate_prior(chances, training, np.ones((1, 2000)), training, 1e-12, 5000)[0]
    assert np.allclose(ours, EMQ.EM(training, chances, epsilon=1e-12)[0], rtol=0, atol=1e-6)


def test_prediction_powered_by_hand_without_and_with_power():
    labels, scores = np.array([1.0, 0, 1, 0]), np.array([0.5, 0.5, 0.5, 0.5])
    share, power = estimators.prediction_powered_mean(labels, scores, 0.4, 0.0, 100)
    assert (share.value, power) == (0.5, 0)  # scores that do not vary say nothing
    assert share.high - share.value == pytest.approx(1.959964 * 0.5 / 2, abs=1e-6)
    share, power = estimators.prediction_powered_mean(labels, labels, 0.4, 0.24, 10_000)
    assert power == pytest.approx(1, abs=2e-3)
    assert share.value == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize(("positives", "n"), [(0, 30), (3, 30), (30, 30)])
def test_exact_intervals_are_those_of_scipy(positives, n):
    low, high = estimators.exact_interval(positives, n)
    assert (low, high) == pytest.approx(tuple(binomtest(positives, n).proportion_ci(method="exact")), abs=1e-12)


def test_nothing_is_known_of_a_stratum_without_a_label():
    assert tuple(map(float, estimators.exact_interval(0, 0))) == (0, 1)
    share = estimators.combine_strata(*(counts := ([50, 50], [50, 0], [10, 0])), *estimators.stratified_exact(*counts))
    assert (share.low, share.high) == pytest.approx((0.1, 0.6))
    known = np.zeros(50, dtype=int), np.repeat([0.0, 1], [40, 10]), np.zeros(50)
    share = estimators.estimate_from_review(np.array([50.0, 50]), np.array([0.2, 0.4]), np.zeros(2), *known)
    assert share[:3] == pytest.approx((0.1 + 0.2, 0.1, 0.6))  # the scores' word stands for the value alone


def test_the_confusion_matrix_is_inverted_as_rogan_and_gladen_do():
    confusion = [[90, 10], [20, 80]]  # false positives .1, recall .8
    share = estimators.invert_confusion([700, 300], confusion)[1]
    assert share.value == pytest.approx((0.3 - 0.1) / (0.8 - 0.1))
    assert not share.is_clipped
    spread = np.sqrt(0.3 * 0.7 / 1000 + 0.09 / 100 * (5 / 7) ** 2 + 0.16 / 100 * (2 / 7) ** 2) / 0.7  # by linearisation
    assert share.high - share.low == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_three_classes_are_recovered_and_a_negative_share_is_clipped():
    confusion, truth = np.array([[70, 20, 10], [10, 80, 10], [0, 10, 90]]), np.array([0.6, 0.3, 0.1])
    predicted = np.round(100_000 * truth @ confusion / 100).astype(int)
    assert [share.value for share in estimators.invert_confusion(predicted, confusion)] == pytest.approx(truth)
    real, generated = estimators.invert_confusion([950, 50], [[90, 10], [20, 80]])
    assert (real.value, generated.value, generated.is_clipped) == (1, 0, True)


def test_the_bound_of_strata_without_a_positive_fails_at_most_as_often_as_it_says():
    sizes, reviewed = np.array([900.0, 80, 20]) * 1000, np.array([40.0, 30, 30])
    weight, worst = sizes / sizes.sum(), 0.0
    bounds = [estimators.bound_empty(sizes, reviewed, np.arange(3) >= first, 0.025) for first in range(4)]
    assert [mask.sum() for mask, _ in bounds] == [0, 1, 2, 3]
    assert bounds[1][1] == pytest.approx(3.689 * 0.9 / 40, rel=1e-3)
    for shares in np.stack(np.meshgrid(*[np.geomspace(1e-3, 0.3, 12)] * 3), axis=-1).reshape(-1, 3):
        none = binom.pmf(0, reviewed, shares)
        fails = 0.0
        for first, (mask, bound) in enumerate(bounds):  # the first stratum with a positive
            chance = none[:first].prod() * (1 - none[first] if first < 3 else 1)
            fails += chance * ((weight * shares)[mask].sum() > bound)
        worst = max(worst, fails)
    assert 0.01 < worst <= 0.025


@pytest.mark.parametrize(("share", "least"), [(0.0005, 0.94), (0.3, 0.9)])
def test_intervals_of_two_hundred_labels_hold(share, least):
    rng, n = np.random.default_rng(1), 100_000
    truth = np.arange(n) < share * n
    scores = np.clip(rng.normal(0.3 + 0.4 * truth, 0.15), 0.001, 0.999)
    stratum = np.searchsorted([0.3, 0.5, 0.7], scores)
    sizes = np.bincount(stratum).astype(float)
    means, squares = (np.bincount(stratum, scores**power) / sizes for power in (1, 2))
    drawn = estimators.allocate(sizes, np.sqrt(means * (1 - means)), 200)
    members = [np.flatnonzero(stratum == h) for h in range(4)]
    inside = []
    for _ in range(300):
        at = np.concatenate([rng.choice(rows, k) for rows, k in zip(members, drawn, strict=True)])
        known = truth[at].astype(float), scores[at]
        estimate = estimators.estimate_from_review(sizes, means, squares - means**2, stratum[at], *known)
        inside.append(estimate.low <= share <= estimate.high)
    assert np.mean(inside) >= least


def test_a_population_that_is_reviewed_as_a_whole_is_known():
    labels, scores = draw(np.random.default_rng(0), 300)
    stratum = (scores > 0.5).astype(int)
    sizes = np.bincount(stratum).astype(float)
    moments = [np.array([part(scores[stratum == h]) for h in (0, 1)]) for part in (np.mean, np.var)]
    share = estimators.estimate_from_review(sizes, *moments, stratum, labels, scores)
    assert share[:3] == pytest.approx([labels.mean()] * 3)


def test_labels_are_allocated_by_size_and_deviation():
    drawn = estimators.allocate(np.array([9000.0, 900, 100]), np.array([0.01, 0.3, 0.5]), 300)
    assert drawn.tolist() == [202, 84, 14]  # 200 of 300 as 90 : 9 : 1, 100 as 90 : 270 : 50
    assert estimators.allocate(np.array([5.0, 10_000]), np.array([0.5, 0.5]), 100)[0] <= 5
    every = estimators.allocate(np.array([5.0, 10]), np.array([0.5, 0.5]), 100)
    assert every.tolist() == [5, 10]  # not more than there are


def test_strata_have_equal_parts_of_the_deviations_and_none_is_empty():
    counts, shares = np.array([100.0, 0, 0, 100, 100, 100]), np.full(6, 0.5)
    assert estimators.cut_strata(counts, shares, 4).tolist() == [1, 4, 5]
    assert estimators.cut_strata(np.array([0.0, 50, 0]), np.full(3, 0.5), 4).tolist() == []


def test_the_simulation_shows_which_intervals_hold(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "scripts")
    from simulate_shares import simulate_shares

    rates = pd.DataFrame(simulate_shares(4, 20_000)).set_index("detector")
    assert len(rates) == 24
    assert rates["reviewed"].mean() > 0.94
    assert rates.loc["calibrated", "em_contains"].mean() > rates.loc["miscalibrated", "em_contains"].mean()
    frequent = rates[rates["share_%"] == 30]
    assert (frequent["width_%"] < frequent["simple_width_%"]).all()
    assert frequent.loc["shifted errors", "adjusted"].max() < 0.5
