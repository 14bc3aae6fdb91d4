"""Rows of probabilities: divided by their sum, or refused with the first that is none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from avatar_bench.inference.probabilities import MAX_SUM_ERROR, ImproperError, normalise_rows


def test_rows_are_divided_by_their_sum() -> None:
    found = normalise_rows([[0.2, 0.8005], [0.0, 1.0]])
    np.testing.assert_allclose(found, [[0.2 / 1.0005, 0.8005 / 1.0005], [0, 1]], rtol=1e-15)
    assert normalise_rows(np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize("row", [[0.5, 0.5 + 2 * MAX_SUM_ERROR], [-0.1, 1.1], [math.nan, 1], [math.inf, 0]])
def test_a_row_that_is_none_is_named(row: list[float]) -> None:
    with pytest.raises(ImproperError, match="2 rows are no probabilities, first row 1") as caught:
        normalise_rows([[0.5, 0.5], row, [0.1, 0.9], row])
    assert caught.value.total == pytest.approx(sum(row), nan_ok=True)
