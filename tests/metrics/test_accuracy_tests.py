"""Tests of what chance makes of slices, against exact tests and by simulation."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import fisher_exact, hypergeom

from avatar_bench.metrics import accuracy_tests, classification, stats
from avatar_bench.metrics.accuracy_tests import beats_guessing, guessing_level


def distant(total, hits, size, seen):
    """Return the exact chance of a number of hits as far from the expected one as that seen."""
    dealt = hypergeom(total, hits, size)
    outcomes = np.arange(size + 1)
    far = np.abs(outcomes - dealt.mean()) >= abs(seen - dealt.mean()) - 1e-9
    return dealt.pmf(outcomes[far]).sum()


def compute_p(*slices):
    """Return the p-values of slices, plain and adjusted."""
    return accuracy_tests.max_t_p_values(accuracy_tests.slice_accuracies(*slices))


def test_one_slice_of_single_images_has_the_exact_p_value_of_its_distance():
    correct = np.arange(60) % 10 > 1
    member = np.zeros((60, 1), bool)
    member[:20] = True
    correct[:8] = False
    accuracies = accuracy_tests.slice_accuracies(correct, np.zeros(60), np.arange(60), member, 20_000, seed=1)
    seen, dealt = accuracies.observed, accuracies.drawn
    inside, outside = correct[:20], correct[20:]
    assert seen[0] == inside.mean()
    p, adjusted = accuracy_tests.max_t_p_values(accuracies)
    assert p[0] == adjusted[0] == pytest.approx(distant(60, correct.sum(), 20, inside.sum()), abs=0.01)
    table = [[inside.sum(), 20 - inside.sum()], [outside.sum(), 40 - outside.sum()]]
    assert p[0] == pytest.approx(fisher_exact(table).pvalue, abs=0.01)
    expected = hypergeom(60, correct.sum(), 20)
    assert dealt.mean() * 20 == pytest.approx(expected.mean(), abs=0.05)
    assert dealt.std() * 20 == pytest.approx(expected.std(), rel=0.03)


def test_equally_distant_accuracies_are_ties_whatever_the_seed():
    correct, member = np.ones(60, bool), (np.arange(60) < 20)[:, None]
    correct[[*range(6), *range(20, 26)]] = False  # 16 correct are expected: 14 and 18 are equally distant
    exact = distant(60, 48, 20, 14)
    assert exact == pytest.approx(0.304, abs=1e-3)
    for seed in range(8):
        p, _ = compute_p(correct, np.zeros(60), np.arange(60), member, 2000, seed)
        assert p == pytest.approx(exact, abs=0.04)


def test_centre_and_spread_are_those_of_all_permutations():
    correct, strata, groups = [1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1], [0, 1, 1, 2, 3, 4]
    members = np.array([[1, 1, 0, 0, 1, 0], [0, 1, 1, 1, 1, 1]], bool).T
    rates = [(*first, *second) for first in permutations((1, 0.5, 1)) for second in permutations((0, 0))]
    # a slice has one image of group 1, the incorrect one: half an image less than the group has, or more
    every = np.array(
        [
            [
                np.array(rate)[groups][member].mean() + sign * part / 3
                for member, part in zip(members.T, (-0.5, 0), strict=True)
            ]
            for rate in rates
            for sign in (1, -1)
        ]
    )
    accuracies = accuracy_tests.slice_accuracies(correct, strata, groups, members, 10)
    np.testing.assert_allclose(accuracies.centre, every.mean(axis=0))
    np.testing.assert_allclose(accuracies.spread, every.std(axis=0))


def test_where_the_distribution_is_skewed_the_p_value_is_not_fishers():
    correct, member = np.arange(71) > 1, (np.arange(71) < 48)[:, None]  # both errors are in the slice
    p, _ = compute_p(correct, np.zeros(71), np.arange(71), member, 20_000)
    assert p[0] == pytest.approx(distant(71, 69, 48, 46), abs=0.01) == pytest.approx(0.556, abs=0.01)
    assert fisher_exact([[46, 2], [23, 0]]).pvalue == pytest.approx(1)


def test_accuracy_is_dealt_within_a_class_alone_in_parts_that_make_a_whole(monkeypatch):
    strata = np.arange(40) % 2
    members = np.stack([strata == 0, strata == 1, np.arange(40) < 10], axis=1)
    accuracies = accuracy_tests.slice_accuracies(strata == 0, strata, np.arange(40), members, 50)
    np.testing.assert_allclose(accuracies.observed, [1, 0, 0.5])
    np.testing.assert_allclose(accuracies.drawn, np.tile([1, 0, 0.5], (50, 1)))
    assert np.array_equal(accuracy_tests.max_t_p_values(accuracies)[0], [1, 1, 1])
    about = (np.arange(30) % 4 > 0, np.arange(30) % 2, np.arange(30), (np.arange(30) < 9)[:, None], 500)
    whole = accuracy_tests.slice_accuracies(*about)[1]
    monkeypatch.setattr(accuracy_tests, "_CHUNK_ELEMENTS", 700)
    np.testing.assert_array_equal(accuracy_tests.slice_accuracies(*about)[1], whole)


def test_images_of_a_group_are_one_finding_and_one_image_is_none():
    groups = np.repeat(np.arange(12), 5)
    correct, member = ~np.isin(groups, [0, 1]), np.isin(groups, [0, 1, 2])[:, None]
    by_group, by_image = (compute_p(correct, np.zeros(60), of, member, 5000)[0][0] for of in (groups, np.arange(60)))
    assert by_group == pytest.approx(hypergeom(12, 2, 3).pmf(2), abs=0.01)
    assert by_image < 0.01 < by_group
    assert [part[0] for part in compute_p([True], [0], ["a"], [[True]], 100)] == [1, 1]


def test_chance_finds_a_slice_among_many_no_more_often_than_it_may_and_a_true_difference_is_found():
    rng = np.random.default_rng(0)
    collected = []
    for trial in range(150):
        correct, members = rng.random(120) < 0.8, rng.random((120, 12)) < 0.3
        p, adjusted = compute_p(correct, np.arange(120) % 3, np.arange(120), members, 199, trial)
        collected.append((p.min() <= 0.05, adjusted.min() <= 0.05))
    plain, adjusted = np.mean(collected, axis=0)
    assert plain > 0.3
    assert adjusted == pytest.approx(0.05, abs=0.04)
    members = rng.random((400, 12)) < 0.3
    correct = rng.random(400) < np.where(members[:, 3], 0.5, 0.95)
    _, adjusted = compute_p(correct, np.arange(400) % 3, np.arange(400), members, 999)
    assert (adjusted.argmin(), adjusted[3]) == (3, 1 / 1000)


def exceeds_guessing(targets, predicted, groups=None, resamples=400):
    """Compute what blind_test saves of a balanced accuracy, and ask whether it exceeds guessing."""
    groups = np.arange(len(targets)) if groups is None else groups

    def statistic(weights):
        return classification.balanced_accuracy(classification.confusion_matrix(targets, predicted, 3, weights))

    value = float(statistic(np.ones((1, len(targets))))[0])
    low, high = map(float, stats.bootstrap_interval(statistic, groups, resamples))
    ends = low if low < high else None
    return beats_guessing(value, ends, len(np.unique(groups)), guessing_level(targets))


@pytest.mark.parametrize("counts", [[100, 100, 100], [240, 45, 15], [150, 0, 150]])
def test_a_random_predictor_rarely_beats_guessing_a_constant_one_never_and_an_informed_one_does(counts):
    targets = np.repeat(np.arange(3), counts)
    rng = np.random.default_rng(1)
    is_better = [exceeds_guessing(targets, rng.integers(0, 3, len(targets))) for _ in range(120)]
    assert sum(is_better) <= 8  # 3 expected at most, of a two-sided level of 95 %
    assert not any(exceeds_guessing(targets, np.full(len(targets), constant)) for constant in range(3))
    informed = np.where(rng.random(len(targets)) < 0.5, targets, rng.integers(0, 3, len(targets)))
    assert exceeds_guessing(targets, informed) is True


def test_groups_that_repeat_count_once():
    """Predictions that are random by group look skilful if every image counts separately."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(15), 20)
    targets = groups % 3
    by_group, by_image = [], []
    for _ in range(60):
        predicted = rng.integers(0, 3, 15)[groups]
        by_group.append(exceeds_guessing(targets, predicted, groups))
        by_image.append(exceeds_guessing(targets, predicted))
    assert sum(by_image) > 15
    assert sum(by_group) <= 7


def test_an_interval_above_the_level_of_the_classes_decides_and_without_one_wilson_over_the_units():
    for value, low, n, level, expected in (
        (1.0, None, 300, 1 / 3, True),  # a perfect predictor
        (1 / 3, None, 10**9, 1 / 3, False),
        (1.0, None, 2, 1 / 2, None),  # two images, both named correctly: one guess in four does that
        (0.0, None, 300, 1 / 3, False),
        (0.5, 1 / 3, 300, 1 / 3, False),  # an interval that ends at the level holds it
        (0.5, 0.1 + 0.2, 300, 0.3, False),
        (0.5, 0.34, 300, 1 / 3, True),
        (0.2, 0.1, 300, 1 / 3, False),  # below it as well
        (0.9, 0.8, 300, None, None),
    ):
        assert beats_guessing(value, low, n, level) is expected
    assert guessing_level([0, 1, 2, 2, 2]) == 1 / 3
    assert guessing_level(["real", "drawing"]) == 1 / 2
    assert guessing_level([1, 1, 1]) is None
    assert guessing_level([]) is None
