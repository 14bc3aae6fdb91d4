"""Re-encoding as done by web platforms."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import features

from avatar_bench.data.equalise import ImageArray
from avatar_bench.errors import ConfigError

UNTRAINED_TIER = "avif"  # its codec is kept out of every augmentation
_WEBP_MAX_SIDE = 16383  # pixels of a side


@dataclass(frozen=True)
class Delivery:
    """Re-encoding as done by web platforms: one of DELIVERY_TIERS, applied to the decoded image.

    web, hard, thumbnail_64, thumbnail_128: the longest side is reduced to 768, 512, 64 or 128 pixels (never enlarged),
    then JPEG of quality 60, 40, 85 or 85. webp: WebP of quality 75. double_jpeg: JPEG of quality 75 twice, cropped by 4
    pixels in between so that the block grids do not align. screenshot: scaled by 0.77 and then by 1.31, as on a screen
    of another pixel density, without lossy compression. avif: reduced to 768 pixels, then AVIF of quality 50, which no
    augmentation uses. Raise ValueError for an unknown tier, ConfigError if this Pillow cannot write AVIF.
    """

    tier: str

    def __post_init__(self) -> None:
        if self.tier not in DELIVERY_TIERS:
            raise ValueError(f"tier must be one of {', '.join(DELIVERY_TIERS)}, not {self.tier!r}")
        if _TIERS[self.tier][1] == "AVIF" and not features.check("avif"):
            raise ConfigError(
                f"delivery={self.tier}: this installation of Pillow cannot write AVIF.",
                "Install Pillow from its wheel, or leave the tier out: 'block.robustness.delivery=[web,hard]'.",
            )

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
        change, kind, options = _TIERS[self.tier]
        return decode(encode(change(image), kind, **options)) if kind != "PNG" else change(image)

    def encode(self, image: ImageArray, seed: int) -> tuple[bytes, str]:
        """Return the delivered file and its format; a screenshot is a PNG, and so is AVIF, which many cannot read."""
        change, kind, options = _TIERS[self.tier]
        if kind == "AVIF":
            return encode(self(image, seed), "PNG"), "PNG"
        return encode(change(image), kind, **options), kind


def encode(image: ImageArray, kind: str, **options: Any) -> bytes:
    """Return the content of a file of a format, such as "JPEG", with the options of Pillow."""
    stream = io.BytesIO()
    Pillow.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def decode(content: bytes) -> ImageArray:
    """Return the pixels of a file that `encode` has made."""
    return np.array(Pillow.open(io.BytesIO(content)).convert("RGB"))


def _make_jpeg_options(quality: int) -> dict[str, Any]:
    return {"quality": quality, "subsampling": "4:2:0"}


def _recompress_and_crop(image: ImageArray) -> ImageArray:
    once = decode(encode(image, "JPEG", **_make_jpeg_options(75)))
    return once[4:, 4:] if min(once.shape[:2]) > 16 else once


def _take_screenshot(image: ImageArray) -> ImageArray:
    return _scale(_scale(image, 0.77, cv2.INTER_AREA), 1.31, cv2.INTER_LINEAR)


def _shrink(image: ImageArray, longest: int) -> ImageArray:
    scale = longest / max(image.shape[:2])
    return _scale(image, scale, cv2.INTER_AREA) if scale < 1 else image


def _scale(image: ImageArray, scale: float, interpolation: int) -> ImageArray:
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), dtype=np.uint8)


# change of the pixels, then the format of the file with its options
_TIERS: dict[str, tuple[Callable[[ImageArray], ImageArray], str, dict[str, Any]]] = {
    "web": (lambda image: _shrink(image, 768), "JPEG", _make_jpeg_options(60)),
    "hard": (lambda image: _shrink(image, 512), "JPEG", _make_jpeg_options(40)),
    "thumbnail_64": (lambda image: _shrink(image, 64), "JPEG", _make_jpeg_options(85)),
    "thumbnail_128": (lambda image: _shrink(image, 128), "JPEG", _make_jpeg_options(85)),
    "webp": (lambda image: _shrink(image, _WEBP_MAX_SIDE), "WEBP", {"quality": 75}),
    "double_jpeg": (_recompress_and_crop, "JPEG", _make_jpeg_options(75)),
    "screenshot": (_take_screenshot, "PNG", {}),
    # the default speed takes ten times as long; one thread, as images are decoded in several processes
    "avif": (lambda image: _shrink(image, 768), "AVIF", {"quality": 50, "speed": 9, "max_threads": 1}),
}
DELIVERY_TIERS = tuple(_TIERS)
