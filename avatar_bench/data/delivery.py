"""Re-encoding as done by web platforms."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image as Pillow

from avatar_bench.data.equalise import ImageArray

_WEBP_MAX_SIDE = 16383  # pixels of a side


@dataclass(frozen=True)
class Delivery:
    """Re-encoding as done by web platforms: one of DELIVERY_TIERS, applied to the decoded image.

    web, hard, thumbnail_64, thumbnail_128: the longest side is reduced to 768, 512, 64 or 128 pixels (never enlarged),
    then JPEG of quality 60, 40, 85 or 85. webp: WebP of quality 75. double_jpeg: JPEG of quality 75 twice, cropped by 4
    pixels in between so that the block grids do not align. screenshot: scaled by 0.77 and then by 1.31, as on a screen
    of another pixel density, without lossy compression. Raise ValueError for an unknown tier.
    """

    tier: str

    def __post_init__(self) -> None:
        if self.tier not in DELIVERY_TIERS:
            raise ValueError(f"tier must be one of {', '.join(DELIVERY_TIERS)}, not {self.tier!r}")

    @property
    def at(self) -> str:
        """Return that it is applied before preprocessing."""
        return "native"

    @property
    def key(self) -> str:
        """Return the tier and the version of its recipe."""
        return f"delivery {self.tier} 1"

    def __call__(self, image: ImageArray, seed: int) -> ImageArray:
        """Return (H', W', 3) uint8 RGB, no larger than `image` except for rounding; the seed is ignored."""
        return _TIERS[self.tier](image)


def encode_jpeg(image: ImageArray, quality: int) -> ImageArray:
    """Return an image as it is after JPEG compression, colour at half resolution."""
    return _encode(image, "JPEG", quality=quality, subsampling="4:2:0")


def _encode_small_jpeg(image: ImageArray, longest: int, quality: int) -> ImageArray:
    return encode_jpeg(_shrink(image, longest), quality)


def _encode_jpeg_twice(image: ImageArray) -> ImageArray:
    once = encode_jpeg(image, 75)
    return encode_jpeg(once[4:, 4:] if min(once.shape[:2]) > 16 else once, 75)


def _take_screenshot(image: ImageArray) -> ImageArray:
    return _scale(_scale(image, 0.77, cv2.INTER_AREA), 1.31, cv2.INTER_LINEAR)


def _encode(image: ImageArray, kind: str, **options: Any) -> ImageArray:
    stream = io.BytesIO()
    Pillow.fromarray(image).save(stream, kind, **options)
    return np.array(Pillow.open(stream).convert("RGB"))


def _shrink(image: ImageArray, longest: int) -> ImageArray:
    scale = longest / max(image.shape[:2])
    return _scale(image, scale, cv2.INTER_AREA) if scale < 1 else image


def _scale(image: ImageArray, scale: float, interpolation: int) -> ImageArray:
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), dtype=np.uint8)


_TIERS: dict[str, Callable[[ImageArray], ImageArray]] = {
    "web": lambda image: _encode_small_jpeg(image, 768, 60),
    "hard": lambda image: _encode_small_jpeg(image, 512, 40),
    "thumbnail_64": lambda image: _encode_small_jpeg(image, 64, 85),
    "thumbnail_128": lambda image: _encode_small_jpeg(image, 128, 85),
    "webp": lambda image: _encode(_shrink(image, _WEBP_MAX_SIDE), "WEBP", quality=75),
    "double_jpeg": _encode_jpeg_twice,
    "screenshot": _take_screenshot,
}
DELIVERY_TIERS = tuple(_TIERS)
