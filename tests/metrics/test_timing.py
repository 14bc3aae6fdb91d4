"""Tests of weighted quantiles against numpy's."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_bench.metrics.timing import quantiles

LEVELS = (0.05, 0.5, 0.95, 1.0)


def test_weighted_quantiles_equal_those_of_the_repeated_values() -> None:
    rng = np.random.default_rng(0)
    values, weights = rng.exponential(size=23), rng.integers(0, 4, (50, 23))
    found = quantiles(values, LEVELS, weights)
    expected = [np.quantile(np.repeat(values, row), LEVELS) for row in weights]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 20, 40])
def test_each_measurement_counted_once_gives_numpys_quantile(n: int) -> None:
    values = np.random.default_rng(n).permutation(n).astype(float)
    found = quantiles(values, LEVELS, np.ones((1, n)))[0]
    np.testing.assert_allclose(found, np.quantile(values, LEVELS), rtol=1e-12)
    assert found[1] == pytest.approx(np.median(values), rel=1e-12)


def test_no_weight_at_all_gives_nan() -> None:
    assert np.isnan(quantiles([1.0, 2.0], (0.5,), [[0, 0]])).all()
