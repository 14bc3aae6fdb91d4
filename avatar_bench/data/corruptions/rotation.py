"""Rotation about the centre by an angle in degrees, counter-clockwise."""

from __future__ import annotations

import cv2
import numpy as np

from avatar_bench.data.equalise import ImageArray

PARAMETERS = (5, 10, 15, 25, 40)


def corrupt(image: ImageArray, degrees: float, seed: int) -> ImageArray:
    """Rotate, mirroring the image at its border: black or white corners would be a cue, as drawings are on white."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    turned = cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned, dtype=np.uint8)
