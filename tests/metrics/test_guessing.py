"""Tests of whether a balanced accuracy exceeds what guessing gives, by simulated predictors of known skill."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from avatar_bench.metrics import classification, stats
from avatar_bench.metrics.guessing import beats_guessing, guessing_level

SETS = {"balanced": [100, 100, 100], "unbalanced": [240, 45, 15], "two of three classes": [150, 0, 150]}


def exceeds_guessing(targets, predicted, groups=None, resamples=400):
    """Compute what blind_test saves of a balanced accuracy, and ask whether it exceeds guessing."""
    groups = np.arange(len(targets)) if groups is None else groups

    def statistic(weights):
        return classification.balanced_accuracy(classification.confusion_matrix(targets, predicted, 3, weights))

    value = float(statistic(np.ones((1, len(targets))))[0])
    low, high = map(float, stats.bootstrap_interval(statistic, groups, resamples))
    ends = low if low < high else None
    return beats_guessing(value, ends, len(np.unique(groups)), guessing_level(targets))


@pytest.fixture(params=SETS.values(), ids=SETS)
def targets(request):
    return np.repeat(np.arange(3), request.param)


def test_the_level_is_one_over_the_classes_that_the_set_holds():
    assert guessing_level([0, 1, 2, 2, 2]) == 1 / 3
    assert guessing_level(["real", "drawing"]) == 1 / 2
    assert guessing_level([1, 1, 1]) is None
    assert guessing_level([]) is None


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_no_predictions_made_without_the_image_are_expected_above_the_level(targets):
    rng = np.random.default_rng(0)
    level = guessing_level(targets)
    for chances in ([1, 0, 0], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3], [0.7, 0.1, 0.2]):
        drawn = [balanced_accuracy_score(targets, rng.choice(3, len(targets), p=chances)) for _ in range(400)]
        assert np.mean(drawn) < level + 4 * np.std(drawn) / 20 + 1e-9


@pytest.mark.parametrize("constant", [0, 1, 2])
def test_a_constant_predictor_never_beats_guessing(targets, constant):
    assert exceeds_guessing(targets, np.full(len(targets), constant)) is False


def test_a_random_predictor_rarely_beats_guessing_and_an_informed_one_does(targets):
    rng = np.random.default_rng(1)
    found = [exceeds_guessing(targets, rng.integers(0, 3, len(targets))) for _ in range(200)]
    assert sum(found) <= 12  # 5 expected at most, of a two-sided level of 95 %
    informed = np.where(rng.random(len(targets)) < 0.5, targets, rng.integers(0, 3, len(targets)))
    assert exceeds_guessing(targets, informed) is True


def test_the_majority_class_alone_is_guessing_however_often_it_is_correct():
    targets = np.repeat([0, 1, 2], [290, 5, 5])
    assert np.mean(targets == 0) > 0.95
    assert exceeds_guessing(targets, np.zeros(300, dtype=int)) is False


def test_groups_that_repeat_count_once():
    """Predictions that are random by group look skilful if every image counts separately."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(15), 20)
    targets = groups % 3
    by_group, by_image = [], []
    for _ in range(100):
        predicted = rng.integers(0, 3, 15)[groups]
        by_group.append(exceeds_guessing(targets, predicted, groups))
        by_image.append(exceeds_guessing(targets, predicted))
    assert sum(by_image) > 25
    assert sum(by_group) <= 12


def test_without_an_interval_wilson_over_the_units_decides():
    assert beats_guessing(1.0, None, 300, 1 / 3) is True  # a perfect predictor
    assert beats_guessing(1 / 3, None, 10**9, 1 / 3) is False
    assert beats_guessing(1.0, None, 2, 1 / 2) is False  # two images, both named correctly: one guess in four does that
    assert beats_guessing(0.0, None, 300, 1 / 3) is False


def test_an_interval_that_ends_at_the_level_holds_it():
    assert beats_guessing(0.5, 1 / 3, 300, 1 / 3) is False
    assert beats_guessing(0.5, 0.1 + 0.2, 300, 0.3) is False
    assert beats_guessing(0.5, 0.34, 300, 1 / 3) is True
    assert beats_guessing(0.2, 0.1, 300, 1 / 3) is False  # below it as well
    assert beats_guessing(0.9, 0.8, 300, None) is None
