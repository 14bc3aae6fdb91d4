"""Images made by a seed, as arrays and as the content of files."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def make_noise(seed: int = 0, height: int = 64, width: int = 64) -> Pixels:
    """Return an image, (height, width, 3), each sample of which is drawn by itself."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_smooth(seed: int = 0, height: int = 64, width: int = 64, low: int = 0, high: int = 256) -> Pixels:
    """Return an image of soft patches, (height, width, 3), unlike that of any other seed."""
    coarse = np.random.default_rng(seed).integers(low, high, (6, 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def encode(pixels: Pixels | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the content of an image file that Pillow writes."""
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, kind, **options)
    return stream.getvalue()
