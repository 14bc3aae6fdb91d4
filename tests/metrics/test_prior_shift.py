"""Tests of figures under other class shares, and of the correction for them."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn import metrics as sk

from avatar_bench.metrics import prior_shift as ps

TRAINING = np.array([0.2, 0.3, 0.5])
PRIOR = np.array([0.7, 0.2, 0.1])


def drawn(n, prior, seed=0, distance=2.0):
    """Return targets drawn with the shares `prior`, and logits that are calibrated for the shares TRAINING."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(3, n, p=prior)
    seen = rng.normal(size=(n, 3)) + distance * np.eye(3)[targets]
    return targets, distance * seen + np.log(TRAINING)


def estimate(posteriors, weights=None, start=TRAINING, tolerance=1e-6, **options):
    weights = np.ones((1, len(posteriors))) if weights is None else weights
    return ps.estimate_prior(posteriors, TRAINING, weights, start, tolerance, **options)


def test_reweighted_measures_equal_sklearn_and_accuracy_is_the_mean_recall_weighted_by_the_mix():
    targets, logits = drawn(400, [0.3, 0.3, 0.4])
    predicted = logits.argmax(axis=1)
    weights = (PRIOR / np.bincount(targets))[targets]
    values = ps.PriorShiftStatistic(logits, targets, TRAINING, PRIOR)(np.ones((1, 400)))[0]
    assert values[0] == pytest.approx(sk.accuracy_score(targets, predicted, sample_weight=weights))
    macro = sk.f1_score(targets, predicted, average="macro", sample_weight=weights)
    assert values[ps.PRIOR_SHIFT_COLUMNS.index("macro_f1")] == pytest.approx(macro)
    np.testing.assert_allclose(ps.make_prior(1, 0.6, 3), [0.2, 0.6, 0.2])
    np.testing.assert_allclose(ps.make_prior(0, 0.9, 2), [0.9, 0.1])
    confusion = np.array([[8, 1, 1], [0, 3, 1], [5, 0, 15]])
    table = ps.reweight_confusion(confusion, PRIOR)
    np.testing.assert_allclose(table.sum(axis=1), PRIOR)
    assert np.trace(table) == pytest.approx(0.7 * 8 / 10 + 0.2 * 3 / 4 + 0.1 * 15 / 20)
    targets, weights = np.arange(60) % 3, np.random.default_rng(0).integers(0, 3, (4, 60)).astype(float)
    mixed = ps.reweight_images(weights, targets, PRIOR)  # in each resample
    np.testing.assert_allclose(mixed @ np.eye(3)[targets], np.tile(PRIOR, (4, 1)))
    assert (mixed[weights == 0] == 0).all()
    confusion = np.array([[8, 1, 1], [0, 0, 0], [5, 0, 15]])
    assert np.isnan(ps.reweight_confusion(confusion, PRIOR)).all()
    assert np.trace(ps.reweight_confusion(confusion, [0.5, 0, 0.5])) == pytest.approx(0.5 * 0.8 + 0.5 * 0.75)
    targets = np.array([0, 0, 2])
    assert np.isnan(ps.reweight_images(np.ones((1, 3)), targets, PRIOR)).all()
    np.testing.assert_allclose(ps.reweight_images(np.ones((1, 3)), targets, [0.5, 0, 0.5]), [[0.25, 0.25, 0.5]])
    np.testing.assert_allclose(ps.reweight_images(np.ones((1, 3)), np.arange(3), [0.5, 0, 0.5]), [[0.5, 0, 0.5]])


def test_the_correction_is_bayes_rule_and_wins_where_posteriors_are_calibrated():
    _, logits = drawn(50, PRIOR)
    by_hand = softmax(logits, axis=1) * PRIOR / TRAINING
    by_hand /= by_hand.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ps.correct_prior(logits, TRAINING, PRIOR), by_hand, rtol=1e-12)
    np.testing.assert_allclose(ps.correct_prior(logits, TRAINING, TRAINING), softmax(logits, axis=1), rtol=1e-12)
    assert ps.correct_prior(logits, TRAINING, np.stack([PRIOR, TRAINING])).shape == (2, 50, 3)
    sure = np.array([[1000.0, 0.0, 0.0], [0.0, 0.0, -1000.0]])
    corrected = ps.correct_prior(sure, TRAINING, [0.0, 0.5, 0.5])
    assert np.isfinite(corrected).all()
    assert (corrected[:, 0] == 0).all()
    np.testing.assert_allclose(corrected.sum(axis=1), 1)
    targets, logits = drawn(20_000, PRIOR, distance=1.2)
    corrected = ps.correct_prior(logits, TRAINING, PRIOR)
    assert (corrected.argmax(axis=1) == targets).mean() > (logits.argmax(axis=1) == targets).mean() + 0.1
    tables = (softmax(logits, axis=1), corrected)
    raw_loss, corrected_loss = (-np.log(table[np.arange(20_000), targets]).mean() for table in tables)
    assert corrected_loss < raw_loss
    np.testing.assert_allclose(corrected.mean(axis=0), PRIOR, atol=0.01)  # calibrated for the new shares
    perfect = ps.PriorShiftStatistic(1000 * np.eye(3)[targets], targets, TRAINING, PRIOR)(np.ones((1, 20_000)))[0]
    np.testing.assert_allclose(perfect, [1] * 6 + [0] * 3 + PRIOR.tolist(), atol=1e-6)


def test_estimated_shares_are_those_of_the_greatest_likelihood_and_near_the_true_ones_whatever_the_start():
    _, logits = drawn(300, PRIOR)
    posteriors = softmax(logits, axis=1)

    def loss(free):
        return -np.log(posteriors / TRAINING @ softmax(np.append(free, 0.0))).mean()

    best = softmax(np.append(minimize(loss, np.zeros(2), tol=1e-14).x, 0.0))
    estimated = estimate(posteriors, tolerance=1e-12, iterations=20_000)
    np.testing.assert_allclose(estimated, [best], atol=1e-5)
    posteriors = softmax(drawn(20_000, PRIOR)[1], axis=1)
    first, second = (estimate(posteriors, start=start) for start in (TRAINING, np.array([0.1, 0.1, 0.8])))
    np.testing.assert_allclose(first, [PRIOR], atol=0.015)
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_weights_count_as_copies_and_resamples_as_the_images_that_they_drew():
    targets, logits = drawn(60, PRIOR)
    posteriors = softmax(logits, axis=1)
    weights = np.random.default_rng(1).integers(0, 4, 60)
    copies = np.repeat(posteriors, weights, axis=0)
    both = np.stack([weights.astype(float), np.full(60, np.nan)])
    estimated = estimate(posteriors, both, tolerance=1e-10)
    np.testing.assert_allclose(estimated[0], estimate(copies, tolerance=1e-10)[0], atol=1e-7)
    assert np.isnan(estimated[1]).all()
    present = np.stack([np.ones(60), targets != 1]).astype(float)
    mixed = ps.PriorShiftStatistic(logits, targets, TRAINING, PRIOR)(present)
    assert np.isfinite(mixed[0]).all()
    assert np.isnan(mixed[1]).all()
    targets, logits = drawn(200, [0.3, 0.3, 0.4])
    mix = ps.PriorShiftStatistic(logits, targets, TRAINING, PRIOR)
    weights = np.random.default_rng(2).integers(0, 3, (3, 200)).astype(float)
    for row, values in zip(weights, mix(weights), strict=True):
        rows = np.repeat(np.arange(200), row.astype(int))
        alone = ps.PriorShiftStatistic(logits[rows], targets[rows], TRAINING, PRIOR)(np.ones((1, len(rows))))[0]
        names = ("accuracy", "macro_f1", "corrected/accuracy", "corrected/gain")
        known = [ps.PRIOR_SHIFT_COLUMNS.index(name) for name in names]
        np.testing.assert_allclose(values[known], alone[known], rtol=1e-12)
        np.testing.assert_allclose(values[9:], alone[9:], atol=5e-3)  # resamples stop at a looser tolerance


def test_floors_are_what_a_network_gets_that_sees_nothing():
    targets, noise = np.arange(3000) % 3, 1e-9 * np.random.default_rng(0).normal(size=(3000, 3))
    for logits, training, names, tolerance in (
        (np.log(TRAINING) + noise, TRAINING, ("corrected/accuracy", "corrected/macro_f1", "prior_error"), 1e-6),
        (log_softmax(noise, axis=1), np.full(3, 1 / 3), ("accuracy", "macro_f1"), 0.03),
    ):
        values = ps.PriorShiftStatistic(logits, targets, training, PRIOR)(np.ones((1, 3000)))[0]
        for name in names:
            floor = ps.guessing_floor(name, TRAINING, PRIOR)
            assert values[ps.PRIOR_SHIFT_COLUMNS.index(name)] == pytest.approx(floor, abs=tolerance)
