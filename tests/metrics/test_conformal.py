"""Tests of conformal prediction sets."""

import numpy as np
import pytest
from scipy.special import softmax

from avatar_bench.metrics import conformal


def exchangeable(n, seed=0, scale=1.0):
    """Probabilities (n, 3), true classes drawn from what they are at scale 1, and numbers from 0 to 1."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (n, 3))
    targets = (softmax(logits, axis=1).cumsum(axis=1) < generator.random((n, 1))).sum(axis=1)
    return softmax(scale * logits, axis=1), np.minimum(targets, 2), generator.random(n)


def sets_of(method, fitted, evaluated, alpha=0.1):
    scores = conformal.CONFORMAL_SCORES[method]
    limit = conformal.threshold(conformal.select_targets(scores(fitted[0], fitted[2]), fitted[1]), alpha)
    return scores(evaluated[0], evaluated[2]) <= limit


def test_scores_and_thresholds_are_those_counted_by_hand():
    probabilities, uniform = np.array([[0.2, 0.7, 0.1]]), np.array([0.5])
    np.testing.assert_allclose(conformal.lac_scores(probabilities, uniform), [[0.8, 0.3, 0.9]])
    np.testing.assert_allclose(conformal.aps_scores(probabilities, uniform), [[0.8, 0.35, 0.95]])
    np.testing.assert_allclose(conformal.aps_scores(probabilities, np.array([1.0])), [[0.9, 0.7, 1.0]])
    np.testing.assert_allclose(conformal.aps_scores(probabilities, np.array([0.0])), [[0.7, 0.0, 0.9]])
    assert conformal.threshold(np.arange(1, 10) / 10, 0.1) == 0.9  # ceil(10 x .9) = the ninth of nine
    assert conformal.threshold(np.arange(1, 20) / 20, 0.1) == 0.9  # the eighteenth of nineteen
    assert conformal.threshold(np.arange(1, 21) / 20, 0.1) == 0.95  # ceil(18.9) = the nineteenth of twenty
    for n in (0, 1, 8):  # of too few images every class is in
        assert conformal.threshold(np.zeros(n), 0.1) == float("inf")
    equal = np.full((50, 3), 1 / 3), np.arange(50) % 3, np.full(50, 0.5)
    assert sets_of("lac", equal, equal).all()


def test_lac_sets_equal_those_of_crepes():
    import crepes

    (fitted, targets, uniform), evaluated = exchangeable(137), exchangeable(400, seed=1)
    theirs = crepes.ConformalClassifier()
    theirs.fit(conformal.select_targets(conformal.lac_scores(fitted, uniform), targets))
    expected = theirs.predict_set(conformal.lac_scores(evaluated[0], evaluated[2]), confidence=0.9, smoothing=False)
    np.testing.assert_array_equal(sets_of("lac", (fitted, targets, uniform), evaluated), expected.astype(bool))


@pytest.mark.parametrize("method", conformal.CONFORMAL_SCORES)
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.4])
def test_sets_equal_those_of_mapie(method, alpha):
    from mapie import classification as mapie

    fitted, evaluated = exchangeable(211), exchangeable(400, seed=1)
    draws = Given(1 - fitted[2], 1 - evaluated[2])  # MAPIE takes away what is added here
    theirs = mapie.SplitConformalClassifier(Known(), 1 - alpha, method, random_state=draws)
    theirs.conformalize(fitted[0], fitted[1])
    params = {"include_last_label": "randomized"} if method == "aps" else None
    _, expected = theirs.predict_set(evaluated[0], conformity_score_params=params)
    ours = sets_of(method, fitted, evaluated, alpha)
    np.testing.assert_array_equal(ours, expected[:, :, 0])
    assert 0.5 < ours.sum(axis=1).mean() < 3


@pytest.mark.parametrize("method", conformal.CONFORMAL_SCORES)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_coverage_is_as_promised_whether_or_not_the_network_is_calibrated(method, scale):
    collected = []
    for seed in range(200):
        fitted, evaluated = exchangeable(200, seed, scale), exchangeable(200, 1000 + seed, scale)
        collected.append(conformal.select_targets(sets_of(method, fitted, evaluated), evaluated[1]).mean())
    assert np.mean(collected) == pytest.approx(0.9, abs=0.01)


class Given(np.random.RandomState):
    """A random state that gives the numbers of the two parts, distinguished by their length."""

    def __init__(self, *parts):
        super().__init__(0)
        self.parts = {len(part): part for part in parts}

    def uniform(self, size):
        return self.parts[size if isinstance(size, int) else size[0]].reshape(size)


class Known:
    """A classifier whose images are their own probabilities, as MAPIE wants one."""

    classes_ = np.arange(3)

    def fit(self, x, y):
        return self

    def predict_proba(self, x):
        return x

    def predict(self, x):
        return x.argmax(axis=1)

    def __sklearn_is_fitted__(self):
        return True


@pytest.mark.parametrize(("n", "n_fit", "alpha"), [(300, 60, 0.1), (78, 150, 0.1), (5, 19, 0.2)])
def test_the_probability_of_so_little_coverage_is_that_of_a_simulation(n, n_fit, alpha):
    rng = np.random.default_rng(0)
    limits = [conformal.threshold(scores, alpha) for scores in rng.random((4_000, n_fit))]  # uniform: limit = coverage
    covered = rng.binomial(n, limits)
    for count in (round(share * n) for share in (0.75, 0.85, 0.9)):
        probability = conformal.compute_loss_probability(count, n, n_fit, alpha)
        assert probability == pytest.approx((covered <= count).mean(), abs=0.025)
    assert conformal.compute_loss_probability(0, n, 3, alpha) == 1.0  # every class is in every set


def test_the_threshold_of_units_is_that_of_images_where_each_unit_has_one():
    rng = np.random.default_rng(0)
    for n in (18, 19, 40, 99):
        scores = rng.random(n)
        assert conformal.threshold_of_units(scores, np.arange(n), 0.05) == conformal.threshold(scores, 0.05)
    assert conformal.threshold_of_units(np.zeros(1_000), np.arange(1_000) % 18, 0.05) == np.inf


def test_an_image_of_a_new_unit_exceeds_the_threshold_as_rarely_as_stated_where_units_differ_in_size():
    rng, exceeds = np.random.default_rng(0), []
    for _ in range(2_000):
        sizes = np.ceil(rng.lognormal(2, 1, 25)).astype(int)
        units = np.repeat(np.arange(25), sizes)
        scores = rng.normal(size=25)[units] + rng.normal(size=len(units))
        is_new = units == 24  # images of one unit are left out
        threshold = conformal.threshold_of_units(scores[~is_new], units[~is_new], 0.1)
        exceeds.append((scores[is_new] > threshold).mean())
    assert 0.1 - 2 / 25 < np.mean(exceeds) < 0.1 + 2 * np.std(exceeds) / np.sqrt(2_000)
