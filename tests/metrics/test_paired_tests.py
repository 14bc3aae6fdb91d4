"""Tests of paired comparisons: the exact test by group, joint resamples, ranks and the letters of ties."""

import runpy
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import permutation_test, t, ttest_ind
from statsmodels.stats.contingency_tables import mcnemar

from avatar_bench.evaluation import recipe_pairs
from avatar_bench.metrics import paired_tests, stats
from avatar_bench.metrics.units import Units


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


def test_groups_that_repeat_count_once():
    gains = np.repeat([1, 1, 1, 1, 1], 10)
    assert paired_tests.cluster_permutation_test(gains, np.repeat(np.arange(5), 10)) == pytest.approx(2 / 2**5)
    assert paired_tests.cluster_permutation_test(gains, np.arange(50)) < 1e-12
    assert paired_tests.cluster_permutation_test(gains, np.zeros(50)) == 1.0


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


def test_the_test_of_source_means_is_welchs_for_two_classes_and_agrees_with_its_interval():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.2, 0.3, 7), rng.normal(0, 0.1, 4)
    parts, strata = np.concatenate([first / 7, -second / 4]), np.repeat([0, 1], [7, 4])
    expected = ttest_ind(first, second, equal_var=False)
    for level in (0.5, 0.95, 0.999, 1 - expected.pvalue + 1e-9, 1 - expected.pvalue - 1e-9):
        test, interval = paired_tests.stratified_t_test(parts, strata, level), expected.confidence_interval(level)
        assert test == pytest.approx((first.mean() - second.mean(), interval.low, interval.high, expected.pvalue))
        assert (test.low > 0 or test.high < 0) == (test.p < 1 - level)
    twice = paired_tests.stratified_t_test(np.stack([parts, -2 * parts]), strata)
    assert twice.value == pytest.approx([test.value, -2 * test.value])
    assert twice.p == pytest.approx(float(test.p))
    noise = paired_tests.Noise([0.01], [3])  # such as that of seeds
    wider = paired_tests.stratified_t_test(parts, strata, 0.95, noise)
    assert wider.high - wider.low > 2 * t.ppf(0.975, 14) * 0.1
    assert wider.p > test.p


def test_equal_parts_of_few_units_are_no_certainty_and_a_stratum_of_one_unit_knows_nothing():
    for count in (4, 6, 9):
        test = paired_tests.stratified_t_test(np.full(count, 0.1), np.arange(count) % 2)
        assert test.p == pytest.approx(paired_tests.find_least_p(count))
        assert (test.low > 0) == (test.p < 0.05)
    nothing = paired_tests.stratified_t_test(np.zeros(6), np.arange(6) % 2)
    assert (nothing.value, nothing.p) == (0, 1)
    assert np.isnan(nothing.low)
    assert np.isnan(paired_tests.stratified_t_test([0.1, 0.2, 0.3], [0, 0, 1])[1:]).all()


def test_planned_numbers_of_units_and_differences_agree_and_grow_as_they_should():
    noise = paired_tests.Noise(np.array([0.001, 0.0004, 0]), np.array([4.0, 6.0, 5.0]))
    for difference in (0.05, 0.1, 0.2):
        n = paired_tests.find_required_units(noise, difference)
        least = [np.quantile(paired_tests.simulate_least_sums(noise, scale=k / 18), 0.8) for k in (n, n + 3)]
        assert least[1] < difference
        assert least[0] == pytest.approx(difference, rel=0.05) or n == 8  # two in the smallest stratum
        assert n < paired_tests.find_required_units(noise, 0.8 * difference)
        assert n < paired_tests.find_required_units(noise, difference, power=0.99)
    assert np.isinf(paired_tests.simulate_least_sums(noise, scale=5 / 18)).all()  # five units show nothing
    values, sources = np.array([1.0, 0, 0, 1, 1, -1, 0, 0]), np.array([0, 0, 1, 1, 2, 2, 3, 3])
    noise = paired_tests.measure_noise(values, Units(np.arange(8), sources, sources // 2))
    by_hand = [max(np.var([0.5, 0.5], ddof=1) / 2 / 4, 2 / 64), max(0, 2 / 64)]  # two images of eight differ in each
    assert noise.variances == pytest.approx(by_hand)
    assert (list(noise.freedoms), noise.step) == ([1, 1], 0)
    noise = paired_tests.measure_noise(values, Units(np.arange(8)))
    assert (float(noise.variances[0]), noise.step) == (pytest.approx(4 / 64 * 8 / 7), 1 / 8)


@pytest.mark.parametrize(("n", "discordance"), [(60, 0.3), (300, 0.1), (1000, 0.02)])
def test_the_planned_difference_of_images_has_its_power_in_mcnemars_exact_test(n, discordance):
    gains = np.zeros(n)
    gains[: round(n * discordance)] = 1 - 2 * (np.arange(round(n * discordance)) % 2)
    noise = paired_tests.measure_noise(gains, Units(np.arange(n)))
    least = float(np.quantile(paired_tests.simulate_least_sums(noise), 0.8))
    rng = np.random.default_rng(0)
    pairs = rng.binomial(n, discordance, 400)
    wins = rng.binomial(pairs, (1 + least / discordance) / 2)
    found = [paired_tests.mcnemar(a, b) < 0.05 for a, b in zip(wins.tolist(), (pairs - wins).tolist(), strict=True)]
    assert 0.74 < np.mean(found) < 0.95


def test_ranks_hold_those_that_are_significantly_better_and_worse():
    better = np.zeros((4, 4), dtype=bool)
    better[0, 2:] = better[1, 3] = True
    low, high = paired_tests.bound_ranks(better)
    assert (low.tolist(), high.tolist()) == ([1, 1, 2, 3], [2, 3, 4, 4])


@pytest.fixture(scope="module")
def simulate():
    return runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "simulate_pairs.py"))


def test_the_simulated_parts_are_those_of_the_package(simulate):
    rng, sizes = np.random.default_rng(0), np.array([[3, 1, 9, 4, 2, 5]])
    source = np.repeat(np.arange(6), sizes[0])
    gains, units = rng.integers(-1, 2, len(source)), Units(np.arange(len(source)), source, source % 3)
    means = np.bincount(source, gains) / sizes
    test = paired_tests.stratified_t_test(simulate["weigh"](means, sizes)[0], np.arange(6) % 3)
    assert recipe_pairs.compare_sources(gains, units) == pytest.approx(
        [float(test.value), -1, 1, float(test.p)]  # ends do not leave the range of a difference
    )


def test_equal_recipes_rarely_differ_whatever_the_sizes_and_differences_of_a_class_are_found(simulate):
    draws = 600
    table = pd.DataFrame(simulate["simulate_tests"](draws))
    is_null = table["case"].isin(simulate["NULLS"][:3])
    for column, rate in (("stratified t (now)", 0.05), ("of these, above 0", 0.025)):
        assert (table.loc[is_null, column] < rate + 3.5 * (rate * (1 - rate) / draws) ** 0.5).all()
        assert table.loc[is_null, column].mean() < rate
    skewed = table[table["case"].isin(simulate["NULLS"][3:])]
    assert skewed["stratified t (now)"].max() < 0.1 < skewed["signs of sums (before)"].max() + 0.02
    power = table[table["case"] == "in one class of three"].set_index(["sizes", "sources"])
    assert (power["stratified t (now)"] > power["signs of sums (before)"]).all()
    assert (
        power.loc[("53 sizes", 15), "stratified t (now)"] > power.loc[("53 sizes", 15), "signs of sums (before)"] + 0.2
    )


def test_planned_differences_and_numbers_of_sources_have_the_power_that_is_stated(simulate):
    table = pd.DataFrame(simulate["simulate_plans"](12))
    for column in ("its power", "their power"):
        assert table[column].mean() == pytest.approx(0.8, abs=0.06)
    assert (table["sources for .10"] >= 6).all()


def test_true_ranks_are_between_the_stated_ends(simulate):
    draws = 60
    table = pd.DataFrame(simulate["simulate_ranks"](draws))
    assert (table["significant pairs (now)"] > 0.95 - 3.5 * (0.05 * 0.95 / draws) ** 0.5).all()
    assert table.loc[table["recipes"] == "equal", "significant pairs (now)"].mean() > 0.95
    assert table.loc[table["recipes"] == "equal", "resamples (before)"].max() < 0.7
