"""Sticker or emoji over part of the face, at a place drawn from the seed: by its size, as a fraction of the side."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_bench.data.equalise import ImageArray

PARAMETERS = (0.12, 0.2, 0.3, 0.42, 0.55)
_TURN = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_SPIKES = np.linspace(0, 2 * np.pi, 10, endpoint=False)
_SHAPES = (  # outlines within a radius of 1; y points down
    np.stack([np.sin(_TURN), np.cos(_TURN)], axis=1),  # a face, which gets eyes and a mouth
    np.stack([np.sin(_SPIKES), -np.cos(_SPIKES)], axis=1) * np.where(np.arange(10) % 2, 0.45, 1.0)[:, None],  # a star
    np.stack(  # a heart
        [
            16 * np.sin(_TURN) ** 3,
            -13 * np.cos(_TURN) - 2.5 + 5 * np.cos(2 * _TURN) + 2 * np.cos(3 * _TURN) + np.cos(4 * _TURN),
        ],
        axis=1,
    )
    / 17,
)
_COLOURS = ((255, 204, 50), (235, 60, 70), (70, 130, 240), (60, 190, 110), (160, 90, 220))
_SHIFT = 4  # fractional bits of coordinates in OpenCV


def corrupt(image: ImageArray, size: float, seed: int) -> ImageArray:
    """Draw a sticker around the middle of the upper part of the image, where faces are."""
    height, width = image.shape[:2]
    rng = np.random.default_rng(seed)
    kind = int(rng.integers(len(_SHAPES)))
    colour = _COLOURS[0 if kind == 0 else int(rng.integers(len(_COLOURS)))]
    centre = rng.uniform((0.35, 0.3), (0.65, 0.6)) * (width, height)
    radius, drawn = size * min(height, width) / 2, image.copy()
    _fill(drawn, centre + 1.15 * radius * _SHAPES[kind], (255, 255, 255))  # the white rim of a sticker
    _fill(drawn, centre + radius * _SHAPES[kind], colour)
    if kind == 0:
        for side in (-0.38, 0.38):
            _fill(drawn, centre + radius * ((side, -0.25) + 0.13 * _SHAPES[0]), (60, 40, 20))
        smile = _SHAPES[0][np.cos(_TURN) > 0.25]
        _fill(drawn, centre + radius * ((0, 0.15) + (0.55, 0.5) * smile), (60, 40, 20))
    return drawn


def _fill(image: ImageArray, outline: NDArray[np.float64], colour: tuple[int, int, int]) -> None:
    points = np.rint(outline * 2**_SHIFT).astype(np.int32)
    cv2.fillPoly(image, [points], colour, lineType=cv2.LINE_AA, shift=_SHIFT)
