"""Thresholds of confidence: exact bounds against scipy and by hand, and the promise and its price by simulation."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from avatar_bench.metrics import selective

DRAWS, N = 1000, 300
MOST = 0.119  # of draws: 10 %, and 1.9 points of noise


def test_bounds_are_those_of_the_exact_binomial_test():
    assert [selective.count_required(target) for target in (0.05, 0.1, 0.5)] == [45, 22, 4]
    for rate, level, n in ((0.01, 0.95, 299), (0.001, 0.95, 2995), (0.5, 0.5, 1)):
        assert selective.count_required(rate, level) == n
        assert binomtest(0, n, rate, "less").pvalue <= 1 - level + 1e-12
        assert n == 1 or binomtest(0, n - 1, rate, "less").pvalue > 1 - level
    for errors, n in ((0, 45), (1, 45), (7, 120), (30, 31), (31, 31)):
        exact = binomtest(errors, n, alternative="less").proportion_ci(0.9, "exact").high
        assert selective.upper_bound(errors, n) == pytest.approx(exact, abs=1e-9)
    for n in (0, 1, 44, 45, 76, 77, 500):
        passing = [k for k in range(n + 1) if n and binomtest(k, n, 0.05, alternative="less").pvalue <= 0.1]
        assert selective.count_allowed(n, 0.05) == max(passing, default=-1)


def test_images_just_enough_are_answered_one_fewer_is_not_and_starts_with_too_few_are_passed_over():
    rng = np.random.default_rng(0)
    pilot, scores, correct = rng.random(60), rng.random(45), np.ones(45, dtype=bool)
    right = np.ones(60, dtype=bool)
    threshold = selective.fit_answering_threshold(pilot, right, scores, correct, 0.05)
    assert (threshold.value, threshold.answered, threshold.errors, threshold.coverage) == (0.0, 45, 0, 1.0)
    assert threshold.bound == pytest.approx(1 - 0.1 ** (1 / 45))
    fewer = selective.fit_answering_threshold(pilot, right, scores[1:], correct[1:], 0.05)
    assert (fewer.value, fewer.answered, fewer.coverage, fewer.bound) == (np.inf, 0, 0.0, 1.0)
    correct[scores.argmin()] = False
    assert selective.fit_answering_threshold(pilot, right, scores, correct, 0.05).answered == 0
    assert selective.fit_answering_threshold(pilot, ~right, scores, ~correct, 0.05).n_errors == 44
    none = selective.fit_answering_threshold(pilot[:0], right[:0], scores, right[:45], 0.05)
    assert none.value == 0.0  # nothing is known beforehand: only the threshold that answers all is tested
    pilot = np.linspace(1, 0.5, 120)
    is_correct = np.arange(120) < 60
    fewer = np.concatenate([pilot[:50] - 0.1, pilot[50:]])  # fewer confident images than the pilot has, all correct
    threshold = selective.fit_answering_threshold(pilot, is_correct, fewer, np.argsort(np.argsort(-fewer)) < 60, 0.05)
    assert threshold.errors == 0
    assert threshold.answered >= 45
    pilot, scores = np.random.default_rng(0).random((2, 250)) / 10 + 0.9  # a pilot without errors
    threshold = selective.fit_answering_threshold(pilot, np.ones(250, bool), scores, scores < scores.max(), 0.05)
    assert (threshold.answered, threshold.errors) == (250, 1)  # from the strictest start on, nothing would be answered


def test_the_coverage_expected_of_each_start_is_that_of_sequences_simulated_one_by_one(monkeypatch):
    monkeypatch.setattr(selective, "_SIMULATIONS", 20_000)
    rng, n, target, draws = np.random.default_rng(1), 90, 0.1, 4000
    scores = np.sort(rng.uniform(0.5, 1, 60))[::-1]
    correct = rng.random(60) < scores**0.3
    grid = np.append(scores[4::8], 0.0)
    answered = [round((scores >= threshold).sum() * n / 60) for threshold in grid]
    ratio = ((~correct).sum() + 5) / ((1 - scores).sum() + 5)
    rates = [min(1, ratio * (1 - scores[image * 60 // n])) for image in range(n)]
    allowed = [max((k for k in range(m + 1) if binom.cdf(k, m, target) <= 0.1), default=-1) for m in answered]
    coverage = np.zeros((draws, len(grid)))
    for draw in range(draws):
        wrong = rng.random(n) < rates
        for start in range(len(grid)):
            for m, most in zip(answered[start:], allowed[start:], strict=True):
                if wrong[:m].sum() > most:
                    break
                coverage[draw, start] = m
    expected = selective._expect_coverage(scores, correct, grid, n, target)
    assert expected == pytest.approx(coverage.mean(axis=0), abs=4 * n / 2 / np.sqrt(draws))
    assert np.ptp(expected) > n / 4


@pytest.mark.parametrize(("errors", "n"), [(3, 74), (0, 20), (40, 1000)])
def test_required_images_are_those_of_a_binomial_test_with_power_8_of_10(errors, n):
    rate = (errors + 0.5) / (n + 0.5 / 0.1)

    def pass_chance(images):
        allowed = int((binom.cdf(np.arange(images), images, 0.1) <= 0.1).sum()) - 1
        return float(binom.cdf(allowed, images, rate))

    expected = next(images for images in range(1, 9999) if pass_chance(images) >= 0.8)
    correct = np.arange(n) >= errors
    required = selective.estimate_required(np.ones(n), correct, 0.1)  # one threshold, that answers all
    assert expected <= required <= 1.1 * expected
    half = selective.estimate_required(np.repeat([0.9, 0.5], n), np.append(correct, np.zeros(n, bool)), 0.1)
    assert half == 2 * required  # of which half is answered


def test_where_the_most_confident_images_exceed_the_target_no_number_is_enough():
    scores = np.linspace(1, 0.5, 80)
    assert selective.estimate_required(scores, np.arange(80) % 5 > 0, 0.1) is None
    assert selective.estimate_required(scores[:9], np.ones(9, bool), 0.1) is None  # too few to say anything
    threshold = selective.fit_answering_threshold(scores, np.arange(80) % 5 > 0, scores, np.arange(80) % 5 > 0, 0.1)
    assert (threshold.answered, threshold.n_missing) == (0, None)
    threshold = selective.fit_answering_threshold(scores, np.arange(80) < 40, scores[::4], np.arange(20) < 10, 0.1)
    assert (threshold.answered, threshold.n) == (0, 20)
    assert threshold.n_missing == 2 * (threshold.n_required - 20) > 0


def test_of_each_group_one_image_is_drawn_and_each_may_be():
    groups = np.repeat([f"g{k:04}" for k in range(2000)], 3)
    drawn = selective.draw_of_groups(groups)
    np.testing.assert_array_equal(groups[drawn], np.unique(groups))
    np.testing.assert_array_equal(drawn, selective.draw_of_groups(groups))
    places = np.bincount(np.flatnonzero(drawn) % 3)
    assert places.min() > 600


def draw_images(rng, shape, power):
    """Draw confidences and whether images are correct, with that probability: calibrated, as after a temperature."""
    scores = 1 - 0.7 * rng.random(shape) ** power
    return scores, rng.random(shape) < scores


def find_best_coverage(scores, correct, target, coverages, grid):
    """Return the mean coverage of the same tests, (draws, N), with the best of all grids of equal steps of coverage."""
    order = np.argsort(-scores, axis=1)
    errors = np.cumsum(~np.take_along_axis(correct, order, axis=1), axis=1)
    answered = np.stack([(scores >= threshold).sum(axis=1) for threshold in grid], axis=1)
    seen = np.take_along_axis(np.pad(errors, ((0, 0), (1, 0))), answered, axis=1)
    passes = (seen <= selective.count_allowed(answered, target)) & (answered > 0)
    best = 0.0
    for start in range(len(grid)):
        for step in (1, 2, 4, 8, len(grid)):
            tested = passes[:, start::step]
            last = np.where(tested.all(axis=1), tested.shape[1], (~tested).argmax(axis=1)) - 1
            best = max(best, float(np.where(last >= 0, coverages[start::step][last], 0).mean()))
    return best


@pytest.mark.parametrize(("target", "power", "largest"), [(0.05, 3.0, 1), (0.1, 2.0, 6)])
def test_the_promise_holds_and_costs_little_coverage(target, power, largest):
    """With groups of 1 to `largest` images, which are equally confident and all correct or all incorrect."""
    rng = np.random.default_rng(largest)
    population, is_correct = draw_images(rng, (400_000,), power)
    order = np.argsort(-population)
    population, is_correct = population[order], is_correct[order]
    risk = np.cumsum(~is_correct) / np.arange(1, len(population) + 1)
    pilot, new = (draw_images(rng, (DRAWS, N), power) for _ in range(2))
    images = np.repeat(np.arange(N), rng.integers(1, largest + 1, N))  # by group
    drawn = selective.draw_of_groups(images)
    thresholds = [
        selective.fit_answering_threshold(*(part[k, images[drawn]] for part in (*pilot, *new)), target)
        for k in range(DRAWS)
    ]
    answered = np.searchsorted(-population, [-threshold.value for threshold in thresholds], side="right")
    exceeded = (answered > 0) & (risk[answered - 1] > target)
    assert exceeded.mean() <= MOST
    coverages = np.arange(0.02, 1.001, 0.02)
    grid = population[(coverages * len(population)).astype(int) - 1]
    best = find_best_coverage(*new, target, coverages, grid)
    assert best > 0.3
    assert answered.mean() / len(population) >= best - 0.03
    if largest > 1:  # as if the images of a group were independent
        thresholds = [
            selective.fit_answering_threshold(*(part[k, images] for part in (*pilot, *new)), target)
            for k in range(DRAWS // 4)
        ]
        answered = np.searchsorted(-population, [-threshold.value for threshold in thresholds], side="right")
        assert ((answered > 0) & (risk[answered - 1] > target)).mean() > MOST


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


@pytest.mark.parametrize("distinct", [2, 7, 1000])
def test_aurc_with_equals_does_not_depend_on_the_order_and_a_weight_counts_as_copies(distinct):
    confidence, correct = answers(distinct=distinct)
    assert aurc(confidence, correct) == pytest.approx(counted(confidence, correct), abs=1e-12)
    assert aurc(confidence[::-1], correct[::-1]) == pytest.approx(counted(confidence, correct), abs=1e-12)
    weights = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), size=20).astype(float)
    for row, value in zip(weights.astype(int), aurc(confidence, correct, weights), strict=True):
        assert value == pytest.approx(counted(np.repeat(confidence, row), np.repeat(correct, row)), abs=1e-12)


def test_risk_coverage_thresholds_and_costs_are_those_counted_by_hand():
    coverage, risk = selective.risk_coverage(np.array([0.9, 0.5, 0.7, 0.7]), [True, False, True, False])
    np.testing.assert_allclose(coverage, [1 / 4, 3 / 4, 3 / 4, 1])
    np.testing.assert_allclose(risk, [0, 1 / 3, 1 / 3, 1 / 2])
    confidence, correct = answers()
    assert aurc(np.full(60, 0.5), correct) == pytest.approx(1 - correct.mean())
    best, worst = (aurc(sign * correct.astype(float), correct) for sign in (1, -1))
    assert best < aurc(confidence, correct) < worst
    assert aurc(confidence, np.ones(60, bool)) == 0
    coverage, risk = selective.risk_coverage(np.array([1.0]), [False])
    assert (coverage.tolist(), risk.tolist(), aurc(np.array([1.0]), [False])) == ([1.0], [1.0], 1)
    confidence, correct = np.array([0.95, 0.8, 0.6, 0.4]), [True, False, True, False]
    losses = selective.abstention_losses(confidence, correct, [0.0, 0.1, 0.3, 1.0])
    np.testing.assert_allclose(losses.T, [[0, 0, 0, 0], [0, 0.1, 0.1, 0.1], [0, 1, 0.3, 0.3], [0, 1, 0, 1]])
    assert selective.abstention_losses(np.array([0.75]), [False], [0.25]).tolist() == [[1]]  # as dear: answered
    # answering one, three or all costs .25 (0 + 3 d), .25 (1 + d), .5; none costs d
    best = selective.best_abstention_costs(confidence, correct, [0.0, 0.1, 0.9])
    np.testing.assert_allclose(best, [0, 0.075, 0.475])
    equal = selective.best_abstention_costs(np.full(4, 0.5), correct, [0.1, 0.9])
    np.testing.assert_allclose(equal, [0.1, 0.5])  # all or none
    confidence, coverages = np.arange(1, 21) / 20, (0.05, 0.1, 0.5, 0.93, 1)
    for coverage, least in zip(coverages, selective.thresholds(coverages, confidence), strict=True):
        assert (confidence >= least).mean() >= coverage
        assert (confidence > least).mean() < coverage
    assert selective.thresholds([0.05, 1], np.array([1.0])).tolist() == [1.0, 1.0]
