"""JPEG compression by its quality, colour at half resolution."""

from __future__ import annotations

from avatar_bench.data.delivery import encode_jpeg
from avatar_bench.data.equalise import ImageArray

PARAMETERS = (80, 60, 30, 15, 8)


def corrupt(image: ImageArray, quality: int, seed: int) -> ImageArray:
    """Encode and decode."""
    return encode_jpeg(image, quality)
