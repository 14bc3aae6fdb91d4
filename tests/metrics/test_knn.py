"""Tests of the k-NN vote against a count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_bench.metrics.knn import predict_by_knn


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
