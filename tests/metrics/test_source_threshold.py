"""Thresholds whose promise is about new sources: by brute force, at their edges, and kept in simulations."""

import numpy as np
import pytest
from scipy.stats import binom

from avatar_bench.metrics.selective import CONFIDENCE, MIN_ANSWERS, find_broken_sources, fit_source_threshold

TARGET, BETA = 0.1, 0.2
MOST = 0.145  # of 120 draws: 10 %, and 4.5 points of noise


def draw(rng, n, size=40, spread=True):
    """Return confidence, correctness and source of images whose error rate differs between sources."""
    sources = np.repeat(np.arange(n), size)
    confidence = 1 / 3 + 2 / 3 * rng.beta(2, 0.7, len(sources))
    rates = rng.beta(0.6, 2.1, n) if spread else np.full(n, 0.2)
    wrong = rng.random(len(sources)) < rates[sources] * (1 - confidence) / (1 - confidence).mean()
    return confidence, ~wrong, sources


def passes(confidence, correct, sources, threshold, beta=BETA):
    """Return whether few sources exceed the target at a threshold, None if too few are counted to start there."""
    broken = counted = 0
    n_sources = len(np.unique(sources))
    for source in np.unique(sources):
        answered = (sources == source) & (confidence >= threshold)
        n, errors = int(answered.sum()), int((answered & ~correct).sum())
        if n >= MIN_ANSWERS:
            counted += 1
            # the exact upper bound is above the target where so few errors are not improbable at the target
            broken += errors / n > TARGET
    if (1 - beta) ** counted > 1 - CONFIDENCE or counted < n_sources / 2:
        return None
    return binom.cdf(broken, counted, beta) <= 1 - CONFIDENCE


@pytest.mark.parametrize("beta", [BETA, 0.5])
def test_the_threshold_is_the_last_before_the_first_that_fails(beta):
    for seed in range(3):
        confidence, correct, sources = draw(np.random.default_rng(seed), 30, size=80)
        fit = fit_source_threshold(confidence, correct, sources, TARGET, beta)
        grid = np.append(1 / (1 + np.exp(-np.arange(9.9, -1.05, -0.1))), 0.0)
        states = [passes(confidence, correct, sources, value, beta) for value in grid]
        tested = [place for place, state in enumerate(states) if state is not None]
        failed = next((place for place in tested if not states[place]), len(grid))
        expected = grid[failed - 1] if failed > tested[0] else np.inf
        assert fit.value == pytest.approx(expected)
        if np.isfinite(expected):
            answered = confidence >= fit.value
            shares = [answered[sources == source].mean() for source in range(30)]
            assert fit.coverage == pytest.approx(np.mean(shares))
            assert (fit.counted, fit.broken) == tuple(
                int(part.sum()) for part in find_broken_sources(answered, correct, sources, TARGET)
            )


def test_sources_just_enough_are_answered_and_one_fewer_or_one_more_error_is_not():
    sources = np.repeat(np.arange(22), 10)
    confidence, correct = np.full(220, 0.8), np.ones(220, dtype=bool)
    correct[::10] = False  # one of ten in each: at the target, not above it
    fit = fit_source_threshold(confidence, correct, sources, 0.1, 0.1)
    assert (fit.value, fit.n, fit.counted, fit.broken, fit.coverage, fit.required) == (0.0, 22, 22, 0, 1.0, 22)
    fewer = fit_source_threshold(confidence[10:], correct[10:], sources[10:], 0.1, 0.1)
    assert (fewer.value, fewer.counted, fewer.required, fewer.coverage) == (np.inf, 21, 22, 0.0)
    correct[1] = False
    more = fit_source_threshold(confidence, correct, sources, 0.1, 0.1)
    assert (more.value, more.broken) == (np.inf, 1)
    unlike = np.where(np.arange(220) == 1, -np.inf, confidence)  # that source has nine answers, and is counted no more
    assert fit_source_threshold(unlike, correct, sources, 0.1, 0.1).counted == 21
    assert fit_source_threshold(np.zeros(0), [], [], 0.1, 0.1).n == 0


@pytest.mark.parametrize("spread", [True, False])
def test_more_than_the_promised_fraction_of_new_sources_breaks_in_few_draws(spread):
    broken = []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        fit = fit_source_threshold(*draw(rng, 30, spread=spread), TARGET, BETA)
        confidence, correct, sources = draw(rng, 300, spread=spread)
        is_counted, exceeds = find_broken_sources(confidence >= fit.value, correct, sources, TARGET)
        # a fraction of 300 is noisy: two standard errors above the promise
        broken.append(exceeds.sum() > BETA * is_counted.sum() + 2 * np.sqrt(BETA * (1 - BETA) * is_counted.sum()))
    assert np.mean(broken) <= MOST
