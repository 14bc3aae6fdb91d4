"""JPEG compression by its quality, colour at half resolution."""

from __future__ import annotations

from avatar_bench.data.delivery import decode, encode
from avatar_bench.data.equalise import ImageArray

PARAMETERS = (80, 60, 30, 15, 8)


def corrupt(image: ImageArray, quality: int, seed: int) -> ImageArray:
    """Encode and decode."""
    return decode(compress(image, quality))


def compress(image: ImageArray, quality: int) -> bytes:
    """Encode alone: return the content of the JPEG file."""
    return encode(image, "JPEG", quality=quality, subsampling="4:2:0")
