"""Tests of distances, neighbours, their purity and the trustworthiness of maps."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn import manifold
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.preprocessing import normalize

from avatar_bench.metrics.neighbours import (
    compute_distances,
    distances,
    find_neighbours,
    predict_by_knn,
    purity,
    trustworthiness,
)


def points(n=60, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)) + 3


def test_distances_and_neighbours_equal_scipy_and_sklearn_and_are_of_other_groups_and_the_same_kind():
    for metric in ("euclidean", "cosine"):
        np.testing.assert_allclose(distances(points(), metric), cdist(points(), points(), metric), atol=1e-6)
        assert (distances(points(), metric).diagonal() == 0).all()
    x, labels = points(), np.arange(60) % 3
    near = find_neighbours(distances(x), np.arange(60).astype(str), 7)
    model = KNeighborsClassifier(7).fit(x, labels)
    np.testing.assert_array_equal(near, model.kneighbors(return_distance=False))  # without oneself
    by_hand = [(labels[row] == label).mean() for row, label in zip(near, labels, strict=True)]
    np.testing.assert_allclose(purity(near, labels), by_hand)
    groups, kind = np.arange(60) // 4, np.arange(60) % 2
    near = find_neighbours(distances(points()), groups, 5, within=kind)
    assert (near >= 0).all()
    assert (groups[near] != groups[:, None]).all()
    assert (kind[near] == kind[:, None]).all()
    near = find_neighbours(distances(points(4)), ["a", "a", "b", "b"], 3)
    assert ((near >= 0).sum(axis=1) == 2).all()
    np.testing.assert_allclose(purity(near, np.array([0, 0, 0, 1])), [0.5, 0.5, 1.0, 0.0])
    alone = find_neighbours(distances(points(3)), ["a"] * 3, 2)
    assert (alone == -1).all()
    assert np.isnan(purity(alone, np.zeros(3))).all()


@pytest.mark.parametrize("k", [1, 5, 12])
def test_mean_trustworthiness_equals_sklearn(k):
    x = points(80)
    for drawn in (x[:, :2], np.random.default_rng(1).permutation(x[:, :2])):
        expected = manifold.trustworthiness(x, drawn, n_neighbors=k)
        assert trustworthiness(x, drawn, k).mean() == pytest.approx(expected, abs=1e-12)
    x, random = points(400, 2), np.random.default_rng(2).normal(size=(400, 2))
    assert trustworthiness(x, 2 * x + 1).min() == 1
    assert trustworthiness(x, random).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("k", [1, 5, 20, 80])
def test_the_vote_is_that_of_the_nearest_by_angle_or_of_all(k):
    rng = np.random.default_rng(0)
    train, queries = rng.normal(size=(60, 8)), rng.normal(size=(30, 8))
    labels = rng.choice(["a", "b", "c"], 60)
    expected = []
    for vector in queries:
        angles = np.arccos(train @ vector / np.linalg.norm(train, axis=1) / np.linalg.norm(vector))
        votes = [(labels[np.argsort(angles)[:k]] == name).sum() for name in "abc"]
        expected.append("abc"[int(np.argmax(votes))])
    assert predict_by_knn(train, labels, queries, k).tolist() == expected


def test_distances_are_those_to_the_kth_neighbour_of_other_groups(monkeypatch):
    monkeypatch.setattr("avatar_bench.metrics.neighbours._CHUNK_ROWS", 7)
    rng = np.random.default_rng(0)
    reference, new = rng.normal(size=(40, 6)), rng.normal(size=(23, 6))
    search = NearestNeighbors(n_neighbors=3).fit(normalize(reference))
    np.testing.assert_allclose(compute_distances(reference, new, 3), search.kneighbors(normalize(new))[0][:, 2])
    groups = np.arange(40) // 2
    distances = compute_distances(reference, reference, 3, groups[:, None] == groups)
    for row in (0, 1, 17, 39):
        others = normalize(reference)[groups != groups[row]]
        assert distances[row] == pytest.approx(np.sort(np.linalg.norm(others - normalize(reference)[row], axis=1))[2])
    few = compute_distances(reference[:4], reference[:4], 3, groups[:4, None] == groups[:4])
    whole = normalize(reference[:4])
    assert few[0] == pytest.approx(max(np.linalg.norm(whole[0] - whole[other]) for other in (2, 3)))  # two are left
    only = compute_distances(reference[:3], reference[:1], 3, np.array([[True, False, True]]))
    assert only[0] == pytest.approx(np.linalg.norm(whole[0] - whole[1]))
    assert np.isinf(compute_distances(reference[:2], reference[:2], 3, np.ones((2, 2), dtype=bool))).all()
