"""Threshold of a score: the best of all, in the middle of its gap."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from avatar_bench.metrics.decision_threshold import compute_balanced_accuracy, fit_threshold


def test_no_other_threshold_has_a_larger_balanced_accuracy() -> None:
    rng = np.random.default_rng(0)
    for n in (3, 10, 41):
        positive = np.arange(n) % 3 == 0
        scores = np.round(rng.normal(positive, 1.5), 1)  # with ties
        steps = np.unique(scores)
        tried = [*steps, *(steps + 0.05), steps[0] - 1]
        best = max(balanced_accuracy_score(positive, scores >= one) for one in tried)
        found = fit_threshold(scores, positive)
        assert balanced_accuracy_score(positive, scores >= found) == pytest.approx(best, abs=1e-12)
        ours = compute_balanced_accuracy(scores, positive, tried)
        expected = [balanced_accuracy_score(positive, scores >= one) for one in tried]
        np.testing.assert_allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ([0, 1, 5, 9], [0, 0, 1, 1], 3.0),  # the middle of the gap
        ([0, 1, 2, 3, 7], [0, 1, 0, 1, 1], 2.5),  # 5/6 from 2.5 on, 3/4 from .5 on
        ([0, 1, 4, 5], [0, 1, 0, 1], 0.5),  # .5 and 4.5 are equally good and wide: the lowest
        ([0, 1, 2, 9], [0, 1, 0, 1], 5.5),  # the widest
    ],
)
def test_the_threshold_is_the_middle_of_the_best_gap(scores: list[float], positive: list[int], expected: float) -> None:
    assert fit_threshold(scores, np.array(positive, dtype=bool)) == expected


@pytest.mark.parametrize(("scores", "positive"), [([1, 1], [0, 1]), ([1, 2], [1, 1]), ([1, 2], [0, 0]), ([], [])])
def test_without_a_gap_or_a_kind_of_image_there_is_no_threshold(scores: list[float], positive: list[int]) -> None:
    with pytest.raises(ValueError, match="needs two scores"):
        fit_threshold(scores, np.array(positive, dtype=bool))
