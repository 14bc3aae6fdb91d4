"""Gaussian noise, independent for each channel: one pattern for an image, scaled by its standard deviation, of 255."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from avatar_bench.data.corruptions import round_to_uint8
from avatar_bench.data.equalise import ImageArray

PARAMETERS = (5, 10, 15, 25, 40)


def corrupt(image: ImageArray, deviation: float, seed: int) -> ImageArray:
    """Add noise."""
    return round_to_uint8(image + np.float32(deviation) * _draw_noise(image.shape, seed))


@lru_cache(maxsize=1)  # all severities of an image are processed in sequence
def _draw_noise(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
