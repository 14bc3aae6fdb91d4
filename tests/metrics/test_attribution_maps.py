"""Tests of the overlap of maps, against hand counts, scipy, scikit-learn and closed forms."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import auc, jaccard_score

from avatar_bench.metrics import attribution_maps


def random_maps(n, side=7, seed=0):
    return np.random.default_rng(seed).random((n, side, side))


def rectified(n, side=7, seed=0):
    return np.maximum(np.random.default_rng(seed).normal(size=(n, side, side)), 0)


def test_every_pair_of_maps_is_compared_as_by_hand_and_as_scipy_and_sklearn_do():
    first = np.array([[[9.0, 8, 1, 0, 2], [0.5, 0.1, 0.2, 0.3, 0.4]]])  # 10 cells: the top 20 % are two
    second = np.array([[[9.0, 1, 8, 5, 2], [0.5, 0.1, 0.2, 0.3, 0.4]]])
    overlaps = attribution_maps.overlaps(first, second)
    assert overlaps["iou_top20"] == pytest.approx(1 / 3)  # {0, 1} and {0, 2}
    assert overlaps["iou_half"] == pytest.approx(1 / 4)  # {0, 1} and {0, 2, 3}
    first, second = rectified(4), rectified(3, seed=1)
    overlaps = attribution_maps.overlaps(first, second)
    assert tuple(overlaps) == attribution_maps.OVERLAP_MEASURES
    for (i, left), (j, right) in ((a, b) for a in enumerate(first) for b in enumerate(second)):
        hot = [(shown / shown.max() >= 0.5).ravel() for shown in (left, right)]
        top = [np.isin(np.arange(49), np.argsort(-shown.ravel())[:10]) for shown in (left, right)]
        assert overlaps["iou_half"][i, j] == pytest.approx(jaccard_score(*hot))
        assert overlaps["iou_top20"][i, j] == pytest.approx(jaccard_score(*top))
        assert overlaps["pearson"][i, j] == pytest.approx(pearsonr(left.ravel(), right.ravel()).statistic)
        assert overlaps["spearman"][i, j] == pytest.approx(spearmanr(left.ravel(), right.ravel()).statistic)


def test_the_top_has_as_many_cells_in_every_map_and_equal_ones_are_drawn_apart():
    maps = rectified(20)
    maps[:10].reshape(10, -1)[:, 3:] = 0
    maps[:, 0, 0] = 1  # three cells at most are above 0
    top = attribution_maps.top_cells(maps)
    assert (top.sum(axis=(1, 2)) == 10).all()
    assert top[maps == 0].any()
    assert (maps[:10][~top[:10]] == 0).all()
    assert attribution_maps.top_cells(np.array([[[1.0, 2], [3, 4]]])).sum() == 1  # a fifth of four cells
    maps = np.zeros((400, 7, 7))
    maps[:, 0, 0] = 1 + np.random.default_rng(0).random(400)
    top = attribution_maps.top_cells(maps)
    np.testing.assert_array_equal(top, attribution_maps.top_cells(maps))
    drawn = top.reshape(400, -1)[:, 1:].mean(axis=0)  # nine of 48
    np.testing.assert_allclose(drawn, 9 / 48, atol=0.09)
    apart = attribution_maps.iou(top[::2], top[1::2]).mean()
    nine = attribution_maps.chance_iou(9, 9, 48)
    assert nine < apart < 0.2  # the one cell that they share, and chance


def test_a_map_overlaps_wholly_with_itself_and_scale_means_nothing():
    for maps in (random_maps(5), rectified(5), np.where(random_maps(5) > 0.95, 1.0, 0)):
        for name, table in attribution_maps.overlaps(maps, maps).items():
            np.testing.assert_allclose(np.diag(table), 1, atol=1e-12, err_msg=name)
    first, second = rectified(6), rectified(6, seed=1)
    for name, table in attribution_maps.overlaps(first, 1e-6 * second).items():
        np.testing.assert_allclose(table, attribution_maps.overlaps(first, second)[name], atol=1e-9, err_msg=name)


def test_a_constant_map_has_no_overlap_with_anything_and_one_nowhere_above_zero_no_hot_cells():
    maps = rectified(3)
    for value in (0.0, 0.1, 3.0):
        maps[1] = value
        for name, table in attribution_maps.overlaps(maps, rectified(3, seed=1)).items():
            assert np.isnan(table[1]).all(), name
            assert not np.isnan(table[[0, 2]]).any(), name
        for name, value_by_chance in attribution_maps.chance_overlaps(maps, rectified(3, seed=1)).items():
            np.testing.assert_array_equal(np.isnan(value_by_chance), [False, True, False], err_msg=name)
    below = -1 - random_maps(2)
    assert not attribution_maps.hot_cells(below).any()
    assert np.isnan(attribution_maps.overlaps(below, random_maps(2))["iou_half"]).all()


@pytest.mark.slow
def test_chance_is_the_mean_over_all_draws_of_independent_rankings_and_of_shuffled_maps():
    sets, fixed = [set(drawn) for drawn in combinations(range(6), 2)], {0, 1, 2}
    expected = np.mean([len(fixed & drawn) / len(fixed | drawn) for drawn in sets])
    assert attribution_maps.chance_iou(3, 2, 6) == pytest.approx(expected)
    assert attribution_maps.chance_iou(6, 6, 6) == pytest.approx(1)
    assert attribution_maps.chance_iou(20_000, 20_000, 100_000) == pytest.approx(1 / 9, abs=1e-4)
    seven = attribution_maps.overlaps(random_maps(300), random_maps(300, seed=1))
    assert seven["iou_top20"].mean() == pytest.approx(attribution_maps.chance_iou(10, 10, 49), abs=2e-3)
    assert seven["iou_half"].mean() == pytest.approx(1 / 3, abs=0.01)  # half the cells are above half the range
    assert seven["pearson"].mean() == pytest.approx(0, abs=2e-3)
    assert seven["spearman"].mean() == pytest.approx(0, abs=2e-3)
    first, second = rectified(4), rectified(4, seed=1)
    rng = np.random.default_rng(2)
    flat = second.reshape(4, -1)
    shuffled = [attribution_maps.overlaps(first, rng.permuted(flat, axis=1).reshape(second.shape)) for _ in range(600)]
    for name, expected in attribution_maps.chance_overlaps(first, second).items():
        by_chance = np.mean([np.diag(table[name]) for table in shuffled], axis=0)
        np.testing.assert_allclose(by_chance, expected, atol=0.025, err_msg=name)


def test_maps_of_other_grids_are_enlarged_as_by_torch_and_equal_ones_are_not():
    small, large = random_maps(2, 7), random_maps(2, 14)
    enlarged, unchanged = attribution_maps.upsample_to_common_grid(small, large)
    expected = torch.nn.functional.interpolate(torch.from_numpy(small)[:, None], (14, 14), mode="bilinear")[:, 0]
    np.testing.assert_allclose(enlarged, expected.numpy(), atol=1e-12)
    np.testing.assert_array_equal(unchanged, large)
    np.testing.assert_array_equal(attribution_maps.upsample_to_common_grid(small, small)[0], small)
    oblong = attribution_maps.upsample_to_common_grid(np.ones((1, 2, 5)), np.ones((3, 4, 4)))
    assert [maps.shape for maps in oblong] == [(1, 5, 5), (3, 5, 5)]
    for shape, size in (((3, 7, 7), 224), ((2, 3, 5), 17), ((1, 1, 1), 4), ((2, 8, 8), 8)):
        maps = np.random.default_rng(0).normal(size=shape)
        expected = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], (size, size), mode="bilinear")
        np.testing.assert_allclose(attribution_maps.upsample(maps, size), expected[:, 0].numpy(), atol=1e-12)


def test_images_are_dealt_within_their_stratum_in_every_order_alike():
    strata = np.array(["b", "a", "b", "a", "b"])
    places = attribution_maps.shuffle_within_strata(strata, 6000, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(places, axis=1), np.tile(np.arange(5), (6000, 1)))
    assert (strata[places] == strata).all()
    orders, counts = np.unique(places, axis=0, return_counts=True)
    assert len(orders) == 2 * 6
    np.testing.assert_allclose(counts, 500, atol=90)
    table = np.arange(16.0).reshape(4, 4)
    overlaps = attribution_maps.overlap_with_other_images(table, ["a", "b", "a", "a"])
    assert overlaps[0] == pytest.approx(np.mean([table[0, 2], table[0, 3], table[2, 0], table[3, 0]]))
    assert overlaps[3] == pytest.approx(np.mean([table[3, 0], table[3, 2], table[0, 3], table[2, 3]]))
    assert np.isnan(overlaps[1])


def test_pixels_are_ranked_downward_and_equal_ones_in_a_random_order_that_the_seed_repeats():
    maps = np.random.default_rng(0).random((3, 4, 4))
    ranks = attribution_maps.rank_pixels(maps, 16, np.random.default_rng(0))
    values = attribution_maps.upsample(maps, 16)
    for rank, value in zip(ranks.reshape(3, -1), values.reshape(3, -1), strict=True):
        np.testing.assert_array_equal(np.sort(rank), np.arange(256))
        assert (np.diff(value[np.argsort(rank)]) <= 0).all()
    empty = np.zeros((2, 3, 3))
    first, again, other = (attribution_maps.rank_pixels(empty, 30, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])
    halves = first[:, :15].mean(), first[:, 15:].mean()
    assert halves == pytest.approx([449.5, 449.5], rel=0.1)


def test_areas_equal_sklearn_and_rank_correlations_scipy_with_ties():
    curves = np.random.default_rng(0).random((5, 12))
    expected = [auc(np.linspace(0, 1, 12), curve) for curve in curves]
    np.testing.assert_allclose(attribution_maps.area_under_curve(curves), expected, atol=1e-12)
    np.testing.assert_allclose(attribution_maps.area_under_curve([[1, 1, 1], [1, 0, 0], [0, 1, 0]]), [1, 0.25, 0.5])
    first, second = np.maximum(np.random.default_rng(0).normal(size=(2, 6, 7, 7)), 0)
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(attribution_maps.rank_correlation(first, second), expected, atol=1e-12)
    maps = np.random.default_rng(0).normal(size=(1, 3, 3))
    assert attribution_maps.rank_correlation(maps, 2 * maps + 1) == pytest.approx([1])
    assert attribution_maps.rank_correlation(maps, -maps) == pytest.approx([-1])
    assert np.isnan(attribution_maps.rank_correlation(maps, np.ones((1, 3, 3)))).all()
