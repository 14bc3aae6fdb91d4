"""Tests of the k-NN vote against a count by hand, and of distances against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from avatar_bench.metrics.knn import compute_distances, predict_by_knn


@pytest.mark.parametrize("k", [1, 5, 20])
def test_the_vote_is_that_of_the_nearest_by_angle(k: int) -> None:
    rng = np.random.default_rng(0)
    train, asked = rng.normal(size=(60, 8)), rng.normal(size=(30, 8))
    labels = rng.choice(["a", "b", "c"], 60)
    expected = []
    for vector in asked:
        angles = np.arccos(train @ vector / np.linalg.norm(train, axis=1) / np.linalg.norm(vector))
        votes = [(labels[np.argsort(angles)[:k]] == name).sum() for name in "abc"]
        expected.append("abc"[int(np.argmax(votes))])
    assert predict_by_knn(train, labels, asked, k).tolist() == expected


def test_length_says_nothing_and_few_neighbours_all_vote() -> None:
    train, labels = np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]), np.array(["x", "y", "y"])
    assert predict_by_knn(train, labels, np.array([[100.0, 1.0]]), k=1).tolist() == ["x"]
    assert predict_by_knn(train, labels, np.array([[100.0, 1.0]]), k=20).tolist() == ["y"]


def test_distances_are_those_to_the_kth_neighbour_of_other_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avatar_bench.metrics.knn._CHUNK_ROWS", 7)
    rng = np.random.default_rng(0)
    reference, new = rng.normal(size=(40, 6)), rng.normal(size=(23, 6))
    search = NearestNeighbors(n_neighbors=3).fit(normalize(reference))
    np.testing.assert_allclose(compute_distances(reference, new, 3), search.kneighbors(normalize(new))[0][:, 2])
    groups = np.arange(40) // 2
    found = compute_distances(reference, reference, 3, groups[:, None] == groups)
    for row in (0, 1, 17, 39):
        others = normalize(reference)[groups != groups[row]]
        assert found[row] == pytest.approx(np.sort(np.linalg.norm(others - normalize(reference)[row], axis=1))[2])
    few = compute_distances(reference[:4], reference[:4], 3, groups[:4, None] == groups[:4])
    whole = normalize(reference[:4])
    assert few[0] == pytest.approx(max(np.linalg.norm(whole[0] - whole[other]) for other in (2, 3)))  # two are left
    assert np.isinf(compute_distances(reference[:2], reference[:2], 3, np.ones((2, 2), dtype=bool))).all()
