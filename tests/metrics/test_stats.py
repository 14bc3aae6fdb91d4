"""Tests of intervals, tests and detectable effects."""

import time
from itertools import permutations

import numpy as np
import pytest
import sklearn.metrics as sk
from scipy.sparse import csr_array
from scipy.stats import binomtest, norm, t

from avatar_bench.metrics import accuracy_tests, classification, paired_tests, stats
from avatar_bench.metrics.stats import build_mean_statistic, nan_mean, ratio

GOOD = np.array([[90, 8, 2], [5, 80, 15], [1, 19, 80]])
QUANTILES = (0.05, 0.5, 0.95, 1.0)
ORDERS = [order for order in permutations(range(3)) if order != (0, 1, 2)]


def renamed(confusion, order):
    """Return the confusion matrix as read by somebody who calls column i what really is class order[i]."""
    return confusion[:, list(order)]


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_wilson_equals_scipy_and_holds_the_proportion_itself(level):
    for successes, n in [(0, 10), (10, 10), (285, 300), (1, 1), (50, 100)]:
        expected = binomtest(successes, n).proportion_ci(level, method="wilson")
        assert stats.wilson(successes, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert {(stats.wilson(0, n, level)[0], stats.wilson(n, n, level)[1]) for n in range(200)} == {(0.0, 1.0)}
    assert stats.wilson(0, 0) == (0.0, 1.0)


def clustered_hits(generator, clusters=120, size=5, mean=0.7):
    """Draw hits whose chance differs by cluster (Beta, mean .7), so that images of a cluster agree."""
    chance = generator.beta(2 * mean, 2 * (1 - mean), clusters)
    groups = np.repeat(np.arange(clusters), size)
    return generator.random(clusters * size) < chance[groups], groups


def test_clustered_bootstrap_covers_the_truth_where_one_of_single_images_does_not():
    generator = np.random.default_rng(0)
    by_group, by_image = [], []
    for seed in range(200):
        hits, groups = clustered_hits(generator)
        low, high = stats.proportion_interval(hits, groups, resamples=300, seed=seed)[:2]
        by_group.append(low <= 0.7 <= high)
        low, high = stats.wilson(int(hits.sum()), len(hits))
        by_image.append(low <= 0.7 <= high)
    assert np.mean(by_group) == pytest.approx(0.95, abs=0.03)
    assert np.mean(by_image) < 0.85


def test_bootstrap_has_its_textbook_width_repeats_with_its_seed_and_leaves_out_what_is_nan():
    values = np.random.default_rng(0).normal(size=500)
    low, high = stats.bootstrap_interval(lambda w: w @ values / w.sum(axis=1), np.arange(500), 4000)
    assert (low, high) == pytest.approx(values.mean() + np.array([-1.96, 1.96]) * values.std() / 500**0.5, abs=0.005)
    values = np.random.default_rng(0).random((50, 2))
    first, second, other = (
        stats.bootstrap_interval(lambda w: w @ values, np.arange(50), 500, seed=seed) for seed in (1, 1, 2)
    )
    assert first[0].shape == (2,)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    groups = np.random.default_rng(0).integers(0, 9, 40)
    single, both = (stats.resample_statistic(lambda w, n=n: w[:, :n], groups, 50, seed=3) for n in (1, 2))
    np.testing.assert_array_equal(single[:, 0], both[:, 0])

    def count(weights):
        return np.column_stack([np.where(weights[:, 0] > 0, 1.0, np.nan), np.full(len(weights), np.nan)])

    low, high = stats.bootstrap_interval(count, np.arange(5), 200)
    np.testing.assert_array_equal([low, high], [[1.0, np.nan], [1.0, np.nan]])


def draw_by_hand(compute, groups, resamples, seed):
    """Compute a function of the rows of images in each resample, drawn one group after the other."""
    generator, names = np.random.default_rng(seed), np.unique(groups)
    collected = []
    for _ in range(resamples):
        drawn = names[generator.integers(0, len(names), len(names))]
        collected.append(compute(np.concatenate([np.flatnonzero(groups == name) for name in drawn])))
    return np.array(collected)


def test_sums_ranks_and_counts_of_groups_give_the_resamples_of_their_images():
    rng = np.random.default_rng(2)
    groups, values = rng.integers(0, 30, 100).astype(str), rng.random((100, 2))
    values[rng.random(100) < 0.2, 1] = np.nan
    expected = draw_by_hand(lambda rows: np.nanmean(values[rows], axis=0), groups, 50, seed=7)
    mean = stats.build_mean_statistic(values)
    np.testing.assert_allclose(stats.resample_statistic(mean, groups, 50, 7), expected, rtol=1e-12)
    sparse = stats.SumStatistic(csr_array(np.nan_to_num(values)), np.asarray)
    dense = stats.resample_statistic(lambda weights: weights @ np.nan_to_num(values), groups, 50, 7)
    np.testing.assert_allclose(stats.resample_statistic(sparse, groups, 50, 7), dense, rtol=1e-12)
    rng = np.random.default_rng(3)
    groups, targets = rng.integers(0, 40, 120), rng.integers(0, 3, 120)
    scores = np.round(rng.random((120, 3)) + 0.3 * np.eye(3)[targets], 1)  # with ties
    predicted = scores.argmax(axis=1)

    def compute(rows):
        aurocs = [sk.roc_auc_score(targets[rows] == index, scores[rows, index]) for index in range(3)]
        return [sk.accuracy_score(targets[rows], predicted[rows]), *aurocs]

    counted = classification.build_confusion_statistic([(targets, predicted)], 3, classification.accuracy)
    joined = stats.JoinedStatistic([counted, *classification.build_auroc_statistics(scores, targets)])
    resampled = stats.resample_statistic(joined, groups, 30, 5)
    np.testing.assert_allclose(resampled, draw_by_hand(compute, groups, 30, seed=5), rtol=1e-12)


def test_resamples_cost_by_group_not_by_image():
    hits, groups = np.random.default_rng(0).random(400_000) < 0.9, np.arange(400_000) // 4000
    begin = time.process_time()
    interval = stats.proportion_interval(hits, groups)
    assert time.process_time() - begin < 3  # by image, it takes 30 times as long
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * (0.09 / 400_000) ** 0.5, rel=0.25)


def test_the_interval_of_a_proportion_counts_groups_and_is_never_a_point():
    assert stats.proportion_interval([True, True, False], list("abc")) == (*stats.wilson(2, 3), 3, "wilson")
    assert stats.proportion_interval([True] * 6, list("aabbcc")) == (*stats.wilson(3, 3), 3, "wilson by group")
    for hits, groups in (([1] * 11 + [0], [0] * 12), ([1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2])):
        low, high, n, method = stats.proportion_interval(np.array(hits, bool), np.array(groups))
        assert low < np.mean(hits) < high
        assert (n, method) == (len(set(groups)), "wilson by group")
        assert (low, high) == stats.wilson(n * np.mean(hits), n)
    hits, groups = clustered_hits(np.random.default_rng(0))
    clustered, single = stats.proportion_interval(hits, groups), stats.wilson(int(hits.sum()), len(hits))
    assert (clustered.method, clustered.n) == ("bootstrap by group", 120)
    assert clustered.high - clustered.low > 1.3 * (single[1] - single[0])


def test_weighted_moments_and_quantiles_equal_those_of_numpy_over_repeated_values():
    rng = np.random.default_rng(0)
    values, parts, weights = rng.uniform(size=40), rng.integers(0, 2, (40, 3)), rng.integers(0, 3, (5, 40))
    means, deviations = stats.weighted_moments(weights.astype(float), values, parts)
    for row, column in np.ndindex(5, 3):
        drawn = np.repeat(values, weights[row] * parts[:, column])
        assert means[row, column] == pytest.approx(drawn.mean(), abs=1e-12)
        assert deviations[row, column] == pytest.approx(drawn.std(), abs=1e-12)
    means, deviations = stats.weighted_moments(np.array([[3.0, 0.0]]), np.array([0.7, 0.9]), [[1, 0], [1, 1]])
    np.testing.assert_array_equal(means, [[0.7, np.nan]])  # of nothing, and one value without a deviation
    assert np.isnan(deviations).all()
    assert stats.weighted_moments(np.ones((1, 3)), np.full(3, 0.1), np.ones((3, 1)))[1] == 0
    rng = np.random.default_rng(0)
    values, weights = rng.exponential(size=23), rng.integers(0, 4, (50, 23))
    quantiles = stats.quantiles(values, QUANTILES, weights)
    expected = [np.quantile(np.repeat(values, row), QUANTILES) for row in weights]
    np.testing.assert_allclose(quantiles, expected, rtol=1e-12)
    for n in (1, 2, 3, 10, 20, 40):
        values = np.random.default_rng(n).permutation(n).astype(float)
        once = stats.quantiles(values, QUANTILES, np.ones((1, n)))[0]
        np.testing.assert_allclose(once, np.quantile(values, QUANTILES), rtol=1e-12)
    assert np.isnan(stats.quantiles([1.0, 2.0], (0.5,), [[0, 0]])).all()


def test_mcnemar_and_holm_equal_a_hand_count():
    counts = {(0, 5): 2 / 2**5, (1, 5): 2 * 7 / 2**6, (0, 0): 1, (4, 4): 1}
    assert {pair: paired_tests.mcnemar(*pair) for pair in counts} == pytest.approx(counts)
    for p, adjusted in (([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]), ([0.9, 0.8], [1.0, 1.0]), ([], [])):
        assert paired_tests.holm(p) == pytest.approx(adjusted)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("confusion", [GOOD, np.eye(3, dtype=int) * 12], ids=["good", "perfect"])
def test_each_wrong_order_of_three_classes_is_named(confusion, order):
    assert accuracy_tests.find_class_permutation(renamed(confusion, order)) == order


def test_wrong_orders_are_named_on_unbalanced_sets_with_absent_classes_and_of_many_classes():
    swapped, many = np.array([[0, 1], [1, 0]]), np.zeros((7, 7), int)
    many[1, 2] = many[2, 1] = 40
    shift = tuple((np.arange(8) + 1) % 8)
    eight = np.full((8, 8), 2) + 30 * np.eye(8, dtype=int)
    for confusion, order in (
        ([[50, 0, 0], [0, 0, 50], [0, 50, 0]], (0, 2, 1)),  # though accuracy is a third
        ([[0, 295, 5], [48, 1, 1], [1, 1, 10]], (1, 0, 2)),
        ([[2, 0, 98], [3, 95, 2], [0, 0, 0]], (2, 1, 0)),
        (swapped * 10, (1, 0)),
        (swapped * 9, None),  # too few images
        (many, (0, 2, 1, 3, 4, 5, 6)),  # absent classes keep their names
        (many[:4, :4], (0, 2, 1, 3)),
        (eight, None),
        (renamed(eight, shift), shift),
    ):
        assert accuracy_tests.find_class_permutation(confusion) == order


@pytest.mark.parametrize(
    "confusion",
    [
        GOOD,
        [[60, 20, 20], [30, 40, 30], [30, 30, 40]],  # mediocre
        [[70, 20, 10], [40, 20, 40], [10, 45, 45]],  # hesitant
        [[60, 5, 35], [5, 10, 85], [5, 30, 65]],  # generated taken for real
        [[34, 33, 33], [33, 34, 33], [33, 33, 34]],  # chance
        np.zeros((3, 3), int),
        *([row, [0, 0, 9], [0, 0, 0]] for row in ([0, 500, 0], [100, 300, 100], [500, 0, 0])),  # sets of one class
        [[0, 0, 10], [0, 0, 300], [0, 0, 10]],  # the class that is predicted too often is rare or absent
        [[12, 0, 0], [0, 30, 270], [0, 3, 47]],
        [[0, 5, 15], [0, 40, 260], [0, 1, 19]],
        [[0, 0, 100], [0, 0, 100], [0, 0, 0]],
    ],
)
def test_a_network_that_is_merely_bad_does_not_alarm(confusion):
    assert accuracy_tests.find_class_permutation(confusion) is None


def test_chance_of_a_gain_by_blind_predictions_equals_a_simulation():
    counts, gain = np.array([[12, 8], [4, 16]]), np.array([[-1.0, 1.0], [1.0, -1.0]])
    targets, predictions = np.repeat([0, 1], 20), np.repeat([0, 1], [16, 24])
    generator = np.random.default_rng(0)
    dealt = np.array([gain[targets, generator.permutation(predictions)].sum() for _ in range(4000)])
    z = ((counts * gain).sum() - dealt.mean()) / dealt.std()
    assert norm.isf(accuracy_tests._association_p(counts, gain)) == pytest.approx(z, abs=0.08)


@pytest.mark.parametrize("mix", [(1 / 3, 1 / 3, 1 / 3), (0.8, 0.15, 0.05), (0.7, 0.3, 0)])
def test_random_predictors_hardly_ever_alarm(mix):
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        rows = generator.multinomial(150, mix)
        guesses = generator.dirichlet([1, 1, 1])
        alarms += accuracy_tests.find_class_permutation([generator.multinomial(n, guesses) for n in rows]) is not None
    assert alarms <= 2  # .4 expected at most


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [  # Newcombe, Stat. Med. 17 (1998) 873, table II, method 10
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((10, 10), (0, 20), (0.6791, 1.0)),
    ],
)
def test_the_interval_of_a_difference_of_two_shares_is_newcombes(a, b, expected):
    shares = [(k / n, *stats.wilson(k, n)) for k, n in (a, b)]
    assert stats.difference_interval(*shares) == pytest.approx(expected, abs=5e-5)
    low, high = stats.difference_interval(*reversed(shares))
    assert (-high, -low) == pytest.approx(expected, abs=5e-5)


def test_a_widened_percentile_interval_of_a_mean_is_students():
    values = np.random.default_rng(0).normal(size=5)
    value, count = values.mean(), len(values)
    low, high = norm.interval(0.9, value, values.std() / count**0.5)  # as the percentiles of many resamples
    exact = t.interval(0.9, count - 1, value, values.std(ddof=1) / count**0.5)
    assert stats.widen_for_few_units(low, high, value, count, level=0.9) == pytest.approx(exact)
    factor = t.ppf(0.975, 6) / norm.ppf(0.975) * np.sqrt(9 / 6)  # each of three strata takes a degree of freedom
    assert stats.widen_for_few_units(0.4, 0.7, 0.5, 9, 3) == pytest.approx((0.5 - factor * 0.1, 0.5 + factor * 0.2))


def test_quotients_and_means_leave_out_what_is_missing_and_are_nan_of_nothing():
    np.testing.assert_array_equal(ratio([[1, 2], [3, 0]], [[2], [0]]), [[0.5, 1.0], [np.nan, np.nan]])
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(nan_mean(values, axis=1), [2, np.nan])
    assert nan_mean(values) == 2
    weights, values = np.array([[1.0, 2.0, 1.0], [0.0, 0.0, 1.0]]), np.array([[1.0], [4.0], [np.nan]])
    np.testing.assert_allclose(build_mean_statistic(values)(weights), [[3.0], [np.nan]])
