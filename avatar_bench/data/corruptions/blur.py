"""Gaussian blur, by the side of its kernel and its sigma, in pixels."""

from __future__ import annotations

import cv2
import numpy as np

from avatar_bench.data.equalise import ImageArray

PARAMETERS = ((3, 0.5), (5, 0.8), (5, 1.1), (9, 1.8), (15, 3.0))


def corrupt(image: ImageArray, kernel: tuple[int, float], seed: int) -> ImageArray:
    """Blur, mirroring the image at its border: a black or white one would be a cue, as drawings are often on white."""
    side, sigma = kernel
    return np.asarray(cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101), dtype=np.uint8)
