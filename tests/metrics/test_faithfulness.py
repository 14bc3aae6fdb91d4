"""Tests of the numbers on attribution maps, against torch, scikit-learn, scipy and hand counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import auc

from avatar_bench.metrics import faithfulness


@pytest.mark.parametrize(("shape", "size"), [((3, 7, 7), 224), ((2, 3, 5), 17), ((1, 1, 1), 4), ((2, 8, 8), 8)])
def test_enlarging_equals_torch(shape, size):
    maps = np.random.default_rng(0).normal(size=shape)
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], (size, size), mode="bilinear")
    np.testing.assert_allclose(faithfulness.upsample(maps, size), expected[:, 0].numpy(), atol=1e-12)


def test_pixels_are_ranked_from_the_most_important_downward():
    maps = np.random.default_rng(0).random((3, 4, 4))
    ranks = faithfulness.rank_pixels(maps, 16, np.random.default_rng(0))
    values = faithfulness.upsample(maps, 16)
    for rank, value in zip(ranks.reshape(3, -1), values.reshape(3, -1), strict=True):
        np.testing.assert_array_equal(np.sort(rank), np.arange(256))
        assert (np.diff(value[np.argsort(rank)]) <= 0).all()


def test_equal_pixels_come_in_a_random_order_that_the_seed_repeats():
    empty = np.zeros((2, 3, 3))
    first, again, other = (faithfulness.rank_pixels(empty, 30, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])
    halves = first[:, :15].mean(), first[:, 15:].mean()
    assert halves == pytest.approx([449.5, 449.5], rel=0.1)


def test_area_equals_sklearn_and_hand_counts():
    curves = np.random.default_rng(0).random((5, 12))
    expected = [auc(np.linspace(0, 1, 12), curve) for curve in curves]
    np.testing.assert_allclose(faithfulness.area_under_curve(curves), expected, atol=1e-12)
    np.testing.assert_allclose(faithfulness.area_under_curve([[1, 1, 1], [1, 0, 0], [0, 1, 0]]), [1, 0.25, 0.5])


def test_rank_correlation_equals_scipy_with_ties():
    rng = np.random.default_rng(0)
    one, other = np.maximum(rng.normal(size=(2, 6, 7, 7)), 0)
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(faithfulness.rank_correlation(one, other), expected, atol=1e-12)


def test_a_map_is_like_itself_unlike_its_negative_and_nothing_to_a_constant_one():
    maps = np.random.default_rng(0).normal(size=(1, 3, 3))
    assert faithfulness.rank_correlation(maps, 2 * maps + 1) == pytest.approx([1])
    assert faithfulness.rank_correlation(maps, -maps) == pytest.approx([-1])
    assert np.isnan(faithfulness.rank_correlation(maps, np.ones((1, 3, 3)))).all()
