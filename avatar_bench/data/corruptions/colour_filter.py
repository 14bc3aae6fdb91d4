"""Colour filter of a photo app: a tint, less colour and more contrast, mixed into the image by its strength, 0 to 1."""

from __future__ import annotations

import numpy as np

from avatar_bench.data.corruptions import round_to_uint8
from avatar_bench.data.equalise import ImageArray

PARAMETERS = (0.2, 0.35, 0.5, 0.75, 1.0)
_TINTS = ((1.1, 0.9, 0.65), (1.15, 1.0, 0.8), (0.75, 0.95, 1.2), (1.15, 0.8, 0.95), (0.8, 1.1, 0.85))
_CONTRAST, _COLOUR = 1.35, 0.5  # factors of the distance from mid-grey, and from the grey of the same brightness
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def corrupt(image: ImageArray, strength: float, seed: int) -> ImageArray:
    """Mix in the filtered image; the tint is drawn from the seed."""
    tint = np.array(_TINTS[np.random.default_rng(seed).integers(len(_TINTS))], dtype=np.float32)
    values = image.astype(np.float32)
    muted = _COLOUR * values + (1 - _COLOUR) * (values @ _LUMA)[..., None]
    filtered = np.clip((muted - 128) * _CONTRAST + 128, 0, 255) * tint
    return round_to_uint8((1 - strength) * values + strength * np.clip(filtered, 0, 255))
