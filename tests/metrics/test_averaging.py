"""Tests of the strategies of averaging, against sums by hand and naive loops."""

import inspect

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from sklearn import metrics as sk
from torchmetrics.functional.classification import multiclass_calibration_error

from avatar_bench.metrics import averaging, calibration
from avatar_bench.metrics.averaging import STRATEGIES, AveragingWeights, average_probabilities


def members(count=3, n=120, seed=0):
    """Return logits (M, N, 3) of networks of different strength and sureness, and targets (N,)."""
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % 3
    signals = np.linspace(0.8, 2.4, count)
    logits = [sure * (rng.normal(size=(n, 3)) + signal * np.eye(3)[targets]) for sure, signal in enumerate(signals, 1)]
    return np.stack(logits), targets


def apply(name, logits, targets):
    """Return what a strategy fits on images without groups."""
    return STRATEGIES[name](logits, targets, np.arange(len(targets)))


@pytest.mark.parametrize("name", STRATEGIES)
def test_weights_sum_to_one_repeat_follow_the_targets_and_average_copies_of_a_network_to_it(name):
    logits, targets = members()
    first, again, other = (apply(name, logits, of) for of in (targets, targets, (targets + 1) % 3))
    assert first.weights.sum() == pytest.approx(1)
    assert (first.weights >= 0).all()
    assert (first.temperatures > 0).all()
    np.testing.assert_array_equal(first.weights, again.weights)
    assert np.allclose([*first], [*other]) == (name == "soft_vote")  # so that the test of poisoned targets can fail
    assert list(inspect.signature(STRATEGIES[name]).parameters) == ["logits", "targets", "groups"]
    twice = np.repeat(members(1)[0], 2, axis=0)
    mix = apply(name, twice, targets)
    expected = softmax(twice[0] / mix.temperatures[0], axis=1)
    np.testing.assert_allclose(np.exp(average_probabilities(twice, mix)), expected, atol=1e-12)


def test_votes_are_the_mean_probability_scaled_or_not_where_the_interval_excludes_1():
    logits, targets = members(n=600)
    logits *= np.array([0.85, 3, 0.3])[:, None, None]
    fitted = [calibration.fit_temperature(member, targets) for member in logits]
    assert fitted[0] != 1
    for name, temperatures in (("soft_vote", [1, 1, 1]), ("scaled_vote", [1, *fitted[1:]])):
        mix = apply(name, logits, targets)
        np.testing.assert_allclose(mix.temperatures, temperatures, rtol=1e-6)
        expected = np.mean([softmax(logit / t, axis=1) for logit, t in zip(logits, mix.temperatures, strict=True)], 0)
        np.testing.assert_allclose(np.exp(average_probabilities(logits, mix)), expected, atol=1e-12)


def test_the_studys_weights_are_accuracy_times_one_minus_ece():
    import torch

    logits, targets = members()
    scores = []
    for member, temperature in zip(logits, apply("scaled_vote", logits, targets).temperatures, strict=True):
        shares = torch.from_numpy(softmax(member / temperature, axis=1))
        error = float(multiclass_calibration_error(shares, torch.from_numpy(targets), 3, n_bins=15))
        scores.append(sk.accuracy_score(targets, member.argmax(axis=1)) * (1 - error))
    mix = apply("accuracy_ece", logits, targets)
    np.testing.assert_allclose(mix.weights, np.array(scores) / sum(scores), atol=1e-6)
    np.testing.assert_array_equal(mix.temperatures, 1)
    wrong = np.stack([np.eye(3)[(targets + 1) % 3]] * 2)
    np.testing.assert_array_equal(apply("accuracy_ece", wrong, targets).weights, [0.5, 0.5])  # never right: alike


@pytest.mark.parametrize("missing", [0.4, 4.0])
def test_the_studys_weights_do_not_punish_a_missing_temperature(missing):
    """With the ECE of the raw outputs, the second of two equal networks got less than the first."""
    logits, targets = members(1, 600)
    pair = np.concatenate([logits, missing * logits])
    correct = pair.argmax(axis=2) == targets
    confidences = softmax(pair, axis=2).max(axis=2)
    errors = [calibration.ece(*member) for member in zip(confidences, correct, strict=True)]
    raw = correct.mean(axis=1) * (1 - np.array(errors))
    assert raw[1] < 0.95 * raw[0]
    np.testing.assert_allclose(apply("accuracy_ece", pair, targets).weights, 0.5, atol=0.01)


def test_greedy_is_the_best_prefix_of_a_naive_selection():
    logits, targets = members(4)
    shares, picked, best = softmax(logits, axis=2), [], (np.inf, [])
    for _ in range(averaging.GREEDY_ROUNDS):
        losses = [sk.log_loss(targets, shares[[*picked, number]].mean(axis=0)) for number in range(4)]
        picked.append(int(np.argmin(losses)))
        best = min(best, (min(losses), list(picked)), key=lambda pair: pair[0])
    expected = np.bincount(best[1], minlength=4) / len(best[1])
    np.testing.assert_allclose(apply("greedy", logits, targets).weights, expected)
    equals = np.repeat(logits[:1], 3, axis=0)
    np.testing.assert_array_equal(apply("greedy", equals, targets).weights, [1, 0, 0])  # the first of equals
    confident_errors = np.array([[[5000.0, 0]], [[5000.0, 0]]])
    assert apply("greedy", confident_errors, np.array([1])).weights.sum() == 1


def test_the_best_member_is_the_most_accurate_and_a_soup_keeps_what_does_not_lower_the_score():
    targets = np.array([0, 1, 2, 0])
    good, sure, bad = np.eye(3)[targets], 3 * np.eye(3)[targets], np.eye(3)[[0, 1, 2, 1]]
    assert averaging.find_best_member(np.stack([bad, good, sure]), targets) == 2
    assert averaging.find_best_member(np.stack([good, good, bad]), targets) == 0
    scored = []

    def score_average(some):
        scored.append(list(some))
        return {(1, 0): 0.9, (1, 0, 2): 0.85, (1, 0, 3): 0.95}[tuple(some)]

    assert averaging.select_greedy_soup([0.8, 0.9, 0.8, 0.7], score_average) == [1, 0, 3]
    assert scored == [[1, 0], [1, 0, 2], [1, 0, 3]]
    assert averaging.select_greedy_soup([0.8], score_average) == [0]


def test_averaged_logits_give_the_mean_probability_and_the_weighted_mean_energy():
    logits, _ = members()
    mix = AveragingWeights(np.array([0.2, 0.3, 0.5]), np.array([0.5, 1.0, 3.0]))
    averaged = averaging.average_logits(logits, mix)
    shares = [
        softmax(member / temperature, axis=1) for member, temperature in zip(logits, mix.temperatures, strict=True)
    ]
    np.testing.assert_allclose(softmax(averaged, axis=1), np.tensordot(mix.weights, shares, 1), atol=1e-12)
    energies = [-np.log(np.exp(member).sum(axis=1)) for member in logits]
    np.testing.assert_allclose(-logsumexp(averaged, axis=1), mix.weights @ energies, atol=1e-12)
    surest = softmax(averaged, axis=1).max(axis=1)
    np.testing.assert_allclose(-averaged.max(axis=1), mix.weights @ energies - np.log(surest))
    twice, mix = np.repeat(logits[:1], 2, axis=0), AveragingWeights(np.array([0.3, 0.7]), np.ones(2))
    np.testing.assert_allclose(averaging.average_logits(twice, mix), logits[0], atol=1e-12)
    extreme = np.array([[[1000.0, 0, 0]], [[1000.0, 0, 0]]])
    averaged = average_probabilities(extreme, AveragingWeights(np.array([1.0, 0.0]), np.ones(2)))
    np.testing.assert_allclose(averaged, [[0, -1000, -1000]])
