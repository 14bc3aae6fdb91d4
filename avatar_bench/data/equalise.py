"""Equalisation: every picture at a side and JPEG quality drawn alike for all classes, so that neither tells a class."""

from __future__ import annotations

import hashlib
import io
import random

import numpy as np
from PIL import Image as Pillow

from avatar_bench.data.decode import decode_bytes
from avatar_bench.data.geometry import Image, to_square

SIDES = (96, 112, 128, 160, 192, 224, 256)
QUALITIES = (75, 80, 85, 90, 95)


def draw(image: Image) -> tuple[int, int]:
    """Give the side in pixels and the JPEG quality for a picture, (H, W, 3); they depend on its pixels alone."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    chosen = random.Random(digest.digest())
    return chosen.choice(SIDES), chosen.choice(QUALITIES)


def equalise_bytes(image: Image, resize: str = "squash") -> bytes:
    """Give the picture, (H, W, 3) uint8 RGB, as JPEG 4:2:0 of the side and quality that `draw` gives.

    resize: "squash", "crop" or "pad", as in `to_square`.
    """
    side, quality = draw(image)
    stream = io.BytesIO()
    Pillow.fromarray(to_square(image, side, resize)).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    return stream.getvalue()


def equalise(image: Image, resize: str = "squash") -> Image:
    """Give what `equalise_bytes` decodes to, (side, side, 3) uint8 RGB."""
    return decode_bytes(equalise_bytes(image, resize), "equalised")
