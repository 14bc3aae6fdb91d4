"""Brightness: V of HSV times a factor, clipped at white; hue and saturation are kept."""

from __future__ import annotations

import numpy as np

from avatar_bench.data.corruptions import round_to_uint8
from avatar_bench.data.equalise import ImageArray

PARAMETERS = (1.15, 1.3, 1.5, 1.75, 2.0)


def corrupt(image: ImageArray, factor: float, seed: int) -> ImageArray:
    """Brighten."""
    value = np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])  # max(axis=2) is ten times as slow
    scale = np.minimum(factor, 255 / np.maximum(np.arange(256, dtype=np.float32), 1))  # for each value of V
    return round_to_uint8(image * scale[value][..., None])  # with constant H and S, RGB scale like V
