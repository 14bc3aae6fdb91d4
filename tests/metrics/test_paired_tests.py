"""Tests of paired comparisons: the exact test by group, joint resamples, ranks and the letters of ties."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import permutation_test
from statsmodels.stats.contingency_tables import mcnemar

from avatar_bench.metrics import paired_tests, stats


def enumerated(gains, groups):
    """Return the p-value by trying every sign of every group."""
    sums = [gains[groups == group].sum() for group in np.unique(groups)]
    seen = abs(sum(sums))
    signs = product((1, -1), repeat=len(sums))
    return np.mean([abs(sum(s * g for s, g in zip(sign, sums, strict=True))) >= seen for sign in signs])


@pytest.mark.parametrize("only", [(0, 5), (1, 5), (3, 3), (12, 30), (0, 0), (40, 7)])
def test_with_single_images_it_is_mcnemar(only):
    a, b = only
    gains = np.array([1] * a + [-1] * b + [0] * 20)
    groups = np.arange(len(gains))
    p = paired_tests.cluster_permutation_test(gains, groups)
    assert p == pytest.approx(mcnemar([[20, a], [b, 3]], exact=True).pvalue, abs=1e-12)
    assert p == pytest.approx(paired_tests.mcnemar(a, b), abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_it_equals_trying_every_sign(seed):
    rng = np.random.default_rng(seed)
    gains, groups = rng.integers(-3, 4, 30), rng.integers(0, 11, 30)
    expected = pytest.approx(enumerated(gains, groups), abs=1e-12)
    assert paired_tests.cluster_permutation_test(gains, groups) == expected
    assert paired_tests.cluster_permutation_test(6 * gains, groups) == expected


def test_it_equals_the_library_on_many_groups():
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 80, 300)
    gains = rng.integers(-1, 2, 300) + (rng.random(300) < 0.1)
    sums = paired_tests.sum_by_group(gains, groups).astype(float)
    draws = {"permutation_type": "samples", "n_resamples": 40_000}
    reference = permutation_test((sums,), lambda x, axis: x.sum(axis=axis), **draws)
    assert paired_tests.cluster_permutation_test(gains, groups) == pytest.approx(reference.pvalue, abs=0.01)


def test_groups_that_repeat_count_once_as_the_design_effect_says():
    gains = np.repeat([1, 1, 1, 1, 1], 10)
    assert paired_tests.cluster_permutation_test(gains, np.repeat(np.arange(5), 10)) == pytest.approx(2 / 2**5)
    assert paired_tests.cluster_permutation_test(gains, np.arange(50)) < 1e-12
    assert paired_tests.cluster_permutation_test(gains, np.zeros(50)) == 1.0
    gains = np.array([1, -1, 0, 1, 1, 0])
    assert paired_tests.design_effect(gains, np.arange(6)) == 1.0
    assert paired_tests.design_effect(np.repeat(gains, 4), np.repeat(np.arange(6), 4)) == 4.0
    assert paired_tests.design_effect(np.array([1, -1]), np.zeros(2)) == 1.0
    assert paired_tests.design_effect(np.zeros(5), np.arange(5)) == 1.0


def accuracies(right):
    return lambda weights: weights @ right.T / weights.sum(axis=1, keepdims=True)


def test_recipes_of_one_run_are_resampled_by_group_alone_and_those_of_the_same_seeds_meet_the_same_seeds():
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(60), 4)
    right = (rng.random((2, 240)) < rng.beta(1.5, 0.5, (2, 60)).repeat(4, axis=1)).astype(int)
    drawn = paired_tests.resample_groups_and_seeds(accuracies(right), groups, [[0], [1]], [1, 1], 300, seed=4)
    np.testing.assert_allclose(drawn, stats.resample_statistic(accuracies(right), groups, 300, seed=4))
    low, high = stats.bootstrap_interval(accuracies(right), groups, 300, seed=4)
    value = right.mean(axis=1)
    ends = stats.widen_for_few_units(*np.quantile(drawn, [0.025, 0.975], axis=0), value, 60)
    np.testing.assert_allclose(ends, [low, high])
    right = np.random.default_rng(0).random((3, 50)) < 0.7
    resample, members = paired_tests.resample_groups_and_seeds, [[0, 1, 2], [3, 4, 5]]
    twice = accuracies(np.concatenate([right, right[::-1]]))
    same, other = (resample(twice, np.arange(50), members, [1, 2, 3, *s], 200) for s in ((3, 2, 1), (6, 5, 4)))
    np.testing.assert_allclose(same[:, 0], same[:, 1])
    assert np.abs(other[:, 0] - other[:, 1]).max() > 0.01


def test_intervals_over_seeds_and_groups_cover_the_truth_where_those_of_groups_do_not():
    rng = np.random.default_rng(0)
    both, groups_alone = [], []
    for trial in range(150):
        of_seed = np.clip(0.8 + 0.05 * rng.normal(size=(6, 1)), 0, 1)
        right = rng.random((6, 150)) < of_seed
        drawn = paired_tests.resample_groups_and_seeds(
            accuracies(right), np.arange(150), [range(6)], range(6), 300, trial
        )[:, 0]
        low, high = stats.percentiles(drawn)
        both.append(low <= 0.8 <= high)
        mean = right.mean(axis=0)
        low, high = stats.bootstrap_interval(lambda w, m=mean: w @ m / w.sum(axis=1), np.arange(150), 300, seed=trial)
        groups_alone.append(low <= 0.8 <= high)
    assert np.mean(both) > 0.9
    assert np.mean(groups_alone) < 0.75


def test_ranks_let_equals_share_and_tie_groups_are_the_largest_without_a_significant_pair():
    np.testing.assert_array_equal(paired_tests.ranks([0.3, 0.9, 0.9, 0.1]), [3, 1, 1, 4])
    np.testing.assert_array_equal(paired_tests.ranks([[1, 2], [2, 1]]), [[2, 1], [1, 2]])
    np.testing.assert_array_equal(paired_tests.ranks([0.1 + 0.2, 0.3]), [1, 1])
    assert paired_tests.find_tie_groups(apart(3)) == [(0, 1, 2)]
    assert paired_tests.find_tie_groups(apart(3, (0, 2))) == [(0, 1), (1, 2)]
    assert paired_tests.find_tie_groups(apart(3, (0, 1), (0, 2), (1, 2))) == [(0,), (1,), (2,)]
    assert paired_tests.find_tie_groups(apart(4, (0, 1), (2, 3))) == [(0, 2), (0, 3), (1, 2), (1, 3)]


def apart(size, *pairs):
    values = np.zeros((size, size), dtype=bool)
    for a, b in pairs:
        values[a, b] = values[b, a] = True
    return values


@pytest.mark.parametrize("seed", range(5))
def test_recipes_share_a_letter_exactly_if_they_do_not_differ_significantly(seed):
    rng = np.random.default_rng(seed)
    significant = np.triu(rng.random((7, 7)) < 0.5, 1)
    significant |= significant.T
    shown = paired_tests.assign_letters(paired_tests.find_tie_groups(significant), 7)
    for a, b in product(range(7), repeat=2):
        if a != b:
            assert bool(set(shown[a]) & set(shown[b])) != significant[a, b]
    assert paired_tests.assign_letters([(i,) for i in range(28)], 28)[25:] == ["z", "a2", "b2"]


def test_units_are_drawn_within_classes_of_equal_weight_and_hold_what_they_differ_by():
    exact = np.tile([0.1, 0.5, 0.9], (4000, 1))
    drawn = paired_tests.resample_units(exact, 0, ["a", "b", "c"], ["x"] * 3)
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    assert drawn.std() == pytest.approx(np.std([0.1, 0.5, 0.9]) / 3**0.5, abs=0.01)
    np.testing.assert_allclose(paired_tests.resample_units(exact[:, :1], 0, ["a"], ["x"]), 0.1)
    exact = np.tile([0.0, 1.0, 0.6, 0.6, 0.6], (4000, 1))
    drawn = paired_tests.resample_units(exact, 0, range(5), [0, 0, 1, 1, 1])
    values, counts = np.unique(drawn.round(6), return_counts=True)
    np.testing.assert_allclose(values, [0.3, 0.55, 0.8])
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)
    units, classes = ["lab", "lab", "a", "b", "c", "d"], ["x", "y", "x", "y", "z", "z"]
    strata = paired_tests.find_strata(units, classes)
    assert len(set(strata[:4])) == 1
    assert len(set(strata[4:])) == 1
    drawn = paired_tests.resample_units(np.tile([1.0, 1, 0, 0], (500, 1)), 0, units[:4], classes[:4])
    expected = {
        (lab / (lab + a) + lab / (lab + b)) / 2
        for lab, a, b in product(range(4), repeat=3)
        if lab + a + b == 3 and lab + a and lab + b
    }
    assert set(drawn[~np.isnan(drawn)].round(6)) == {round(value, 6) for value in expected}
    assert np.isnan(drawn).mean() == pytest.approx(2 / 27, abs=0.04)  # one unit alone, and not `lab`
