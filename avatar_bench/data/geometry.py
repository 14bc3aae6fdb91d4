"""Geometry: a picture of any shape brought to a square."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
RESIZES = ("squash", "crop", "pad")


def to_square(image: Image, side: int, resize: str) -> Image:
    """Resize (H, W, 3) uint8 RGB to (side, side, 3) uint8; the image itself is given back where it fits.

    resize: "squash" distorts, "crop" keeps the centred square, "pad" adds white to both sides.
    """
    if resize == "pad":
        return _pad(image, side)
    return _resize(_centre_square(image) if resize == "crop" else image, side, side)


def _resize(image: Image, width: int, height: int) -> Image:
    """Average where a side shrinks, interpolate where it grows, one after the other.

    Averaging keeps fine texture from turning into moire, and a cubic keeps edges sharp. They are chosen by side, as
    INTER_AREA falls back to bilinear, which aliases, as soon as one of the sides grows.
    """
    image = _resize_with(image, min(width, image.shape[1]), min(height, image.shape[0]), cv2.INTER_AREA)
    return _resize_with(image, width, height, cv2.INTER_CUBIC)


def _resize_with(image: Image, width: int, height: int, interpolation: int) -> Image:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), dtype=np.uint8)


def _centre_square(image: Image) -> Image:
    """Cut before resizing: a strip of 1 x 5000 would otherwise grow to a million columns first."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def _pad(image: Image, size: int) -> Image:
    scale = size / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    top, left = (size - height) // 2, (size - width) // 2
    if (height, width) == (size, size):
        return _resize(image, size, size)
    square = np.full((size, size, 3), 255, np.uint8)
    square[top : top + height, left : left + width] = _resize(image, width, height)
    return square
