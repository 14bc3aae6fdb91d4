"""Tests of avatar_bench.metrics.robustness: networks whose bias and fragility are known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_bench.metrics.robustness import bias, fragility, prediction_shifts

CLEAN = np.diag([40.0, 20.0, 10.0])


def test_a_network_that_sees_one_class_in_whatever_is_transformed_is_biased_to_it() -> None:
    after = np.zeros((3, 3))
    after[:, 1] = CLEAN.sum(axis=1)
    moved = prediction_shifts(CLEAN, after)
    assert bias(moved) == pytest.approx([-1 / 3, 2 / 3, -1 / 3])
    assert fragility(moved) == pytest.approx([1, 0, 1])


def test_a_network_that_guesses_on_whatever_is_transformed_is_fragile_and_not_biased() -> None:
    after = np.repeat(CLEAN.sum(axis=1, keepdims=True) / 3, 3, axis=1)
    moved = prediction_shifts(CLEAN, after)
    assert bias(moved) == pytest.approx([0, 0, 0])
    assert fragility(moved) == pytest.approx([2 / 3] * 3)


def test_moves_are_what_a_set_with_one_class_transformed_shows() -> None:
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1, 2], [30, 20, 10])
    before, after = rng.integers(0, 3, (2, 60))
    counts = [
        np.array([[((targets == t) & (p == c)).sum() for c in range(3)] for t in range(3)]) for p in (before, after)
    ]
    moved = prediction_shifts(*counts)
    for k in range(3):
        mixed = np.where(
            targets == k, after, before
        )  # the predictions of the set in which class k alone is transformed
        gained = [((mixed == c).sum() - (before == c).sum()) / (targets == k).sum() for c in range(3)]
        assert moved[k] == pytest.approx(gained)
    assert moved.sum(axis=1) == pytest.approx([0, 0, 0])
    assert bias(moved).sum() == pytest.approx(0)
    assert bias(moved) == pytest.approx(moved.mean(axis=0))


def test_an_absent_class_is_left_out_and_one_class_alone_shows_no_bias() -> None:
    before, after = np.diag([10.0, 10.0, 0.0]), np.array([[5.0, 0, 5], [0, 10, 0], [0, 0, 0]])
    moved = prediction_shifts(before, after)
    assert np.isnan(moved[2]).all()
    assert bias(moved) == pytest.approx([-0.25, 0, 0.25])
    assert fragility(moved)[:2] == pytest.approx([0.5, 0])
    assert np.isnan(fragility(moved)[2])
    lonely = prediction_shifts(np.diag([10.0, 0, 0]), np.array([[5.0, 5, 0], [0, 0, 0], [0, 0, 0]]))
    assert np.isnan(bias(lonely)).all()
    assert fragility(lonely)[0] == 0.5


def test_a_stack_is_worked_like_its_parts() -> None:
    stack = np.random.default_rng(1).integers(0, 9, (2, 4, 3, 3)).astype(float) + np.eye(3)
    after = np.roll(stack, 1, axis=-1)
    moved = prediction_shifts(stack, after)
    for place in np.ndindex(2, 4):
        alone = prediction_shifts(stack[place], after[place])
        assert np.array_equal(moved[place], alone)
        assert np.array_equal(bias(moved)[place], bias(alone))
        assert np.array_equal(fragility(moved)[place], fragility(alone))
