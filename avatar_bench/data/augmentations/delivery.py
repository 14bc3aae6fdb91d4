"""Random re-encodings as done by web platforms, by the probability of a chain; applied before images are resized."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

from avatar_bench.data.delivery import DELIVERY_TIERS, UNTRAINED_TIER, decode, encode
from avatar_bench.data.equalise import ImageArray

SIDES = (64, 800)  # longest side in pixels, of images that are not smaller
QUALITIES = (30, 95)  # of JPEG and WebP
# an enlarged thumbnail lacks fine detail, as a blurred image does
RESEMBLES = ("blur", "jpeg", *(f"delivery/{tier}" for tier in DELIVERY_TIERS if tier != UNTRAINED_TIER))
_SUBSAMPLINGS = ("4:4:4", "4:2:0")
_SMOOTH = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
_BLOCK = 8  # pixels of a side of a block of JPEG
_MIN_CROPPED = 4 * _BLOCK  # shortest side that is cropped


def is_drawn(probability: float, rng: np.random.Generator) -> bool:
    """Draw whether an image is re-encoded."""
    return bool(rng.random() < probability)


def deliver(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Scale and re-encode (H, W, 3) uint8 RGB, once or twice as a repost is; return (H', W', 3).

    Before the second time, half of the images are enlarged again, up to their own size, the others are shown at another
    scale and captured, as in a screenshot.
    """
    native = max(image.shape[:2])
    side = math.exp(rng.uniform(*np.log(SIDES)))
    delivered = _reencode(_scale(image, side, rng) if side < native else image, rng)
    if rng.random() < 0.5:
        return delivered
    side, largest = max(delivered.shape[:2]), min(native, SIDES[1])
    if rng.random() < 0.5:
        reposted = _scale(delivered, rng.uniform(side, max(side, largest)), rng)
    else:
        shown = _scale(delivered, min(side, max(SIDES[0], side * rng.uniform(0.5, 1))), rng)
        reposted = _scale(shown, min(SIDES[1], max(shown.shape[:2]) * rng.uniform(1, 2)), rng)
    return _reencode(reposted, rng)


def _reencode(image: ImageArray, rng: np.random.Generator) -> ImageArray:
    """Encode as JPEG or WebP; of half of the images, rows and columns are cut off first, which moves their blocks."""
    if min(image.shape[:2]) >= _MIN_CROPPED and rng.random() < 0.5:
        top, left = rng.integers(1, _BLOCK, 2)
        image = image[top:, left:]
    options: dict[str, Any] = {"quality": int(rng.integers(*QUALITIES, endpoint=True))}
    if rng.random() < 0.3:
        return decode(encode(image, "WEBP", method=2, **options))  # in half the time of the default method
    return decode(encode(image, "JPEG", subsampling=str(rng.choice(_SUBSAMPLINGS)), **options))


def _scale(image: ImageArray, longest: float, rng: np.random.Generator) -> ImageArray:
    scale = longest / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    method = int(rng.choice(_SMOOTH if scale > 1 else (*_SMOOTH, cv2.INTER_AREA)))
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)
