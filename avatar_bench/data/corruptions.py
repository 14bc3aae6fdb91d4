"""Image corruptions at five severities, and re-encoding as done by web platforms."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from avatar_bench.data.equalise import ImageArray

SEVERITIES = (1, 2, 3, 4, 5)
RESOLUTIONS = ("input", "native")
# One parameter per severity; the third is that of the study that this package reproduces.
CORRUPTION_PARAMETERS: dict[str, tuple[Any, ...]] = {
    "noise": (5, 10, 15, 25, 40),  # standard deviation of Gaussian noise, of 255
    "blur": ((3, 0.5), (5, 0.8), (5, 1.1), (9, 1.8), (15, 3.0)),  # Gaussian: side of the kernel and sigma, pixels
    "brightness": (1.15, 1.3, 1.5, 1.75, 2.0),  # factor of HSV's V
    "rotation": (5, 10, 15, 25, 40),  # degrees, counter-clockwise
    "jpeg": (80, 60, 30, 15, 8),  # quality
}
CORRUPTION_KINDS = tuple(CORRUPTION_PARAMETERS)
_WEBP_MAX_SIDE = 16383  # pixels of a side


class Variation(Protocol):
    """Deterministic change of an image: a frozen, picklable dataclass, so that worker processes can receive it."""

    @property
    def key(self) -> str:
        """Return a name that includes every parameter, so that a cache key never stands for two different images."""

    @property
    def at(self) -> str:
        """Return when the variation is applied: "native" (before preprocessing) or "input" (after it)."""

    def __call__(self, image: ImageArray, seed: int) -> ImageArray:
        """Return a varied copy of (H, W, 3) uint8 RGB of any size; depends only on `image` and `seed` (>= 0)."""


@dataclass(frozen=True)
class Corruption:
    """One of CORRUPTION_KINDS at a severity of 1 to 5; the image keeps its size.

    noise: Gaussian, the same pattern at each severity, scaled by its standard deviation. blur: Gaussian. brightness:
    HSV's V times a factor, clipped at white, hue and saturation kept. rotation: about the centre, bilinear. jpeg:
    4:2:0. Blur and rotation mirror the image at its border: black or white corners would be a cue of their own, because
    drawings often have a plain background. Raise ValueError for an unknown kind, severity or resolution.
    """

    kind: str
    severity: int
    at: str = "input"

    def __post_init__(self) -> None:
        for name, known in (("kind", CORRUPTION_KINDS), ("severity", SEVERITIES), ("at", RESOLUTIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, not {getattr(self, name)!r}")

    @property
    def parameter(self) -> Any:
        """Return the entry of CORRUPTION_PARAMETERS for this kind and severity."""
        return CORRUPTION_PARAMETERS[self.kind][self.severity - 1]

    @property
    def key(self) -> str:
        """Return the kind with its parameter and resolution."""
        return f"{self.kind} {self.parameter} at {self.at}"

    def __call__(self, image: ImageArray, seed: int) -> ImageArray:
        """Corrupt (H, W, 3) uint8 RGB; only noise uses the seed."""
        if self.kind == "noise":
            return _add_noise(image, self.parameter, seed)
        return _CORRUPT[self.kind](image, self.parameter)


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


def derive_seed(sha256: str) -> int:
    """Return the seed of an image's variations from the hex SHA-256 of its file: equal for all networks and orders."""
    return int(sha256[:8], 16)


def apply_variation(
    variation: Variation, image: ImageArray, prepare: Callable[[ImageArray], ImageArray], seed: int
) -> ImageArray:
    """Vary a decoded image (H, W, 3) before or after `prepare` resizes it, depending on `variation.at`."""
    if variation.at == "native":
        return prepare(variation(image, seed))
    return variation(prepare(image), seed)


def _add_noise(image: ImageArray, deviation: float, seed: int) -> ImageArray:
    return _to_uint8(image + np.float32(deviation) * _draw_noise(image.shape, seed))


@lru_cache(maxsize=1)  # all severities of an image are processed in sequence
def _draw_noise(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _blur(image: ImageArray, kernel: tuple[int, float]) -> ImageArray:
    side, sigma = kernel
    return np.asarray(cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101), dtype=np.uint8)


def _brighten(image: ImageArray, factor: float) -> ImageArray:
    value = np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])  # max(axis=2) is ten times as slow
    scale = np.minimum(factor, 255 / np.maximum(np.arange(256, dtype=np.float32), 1))  # for each value of V
    return _to_uint8(image * scale[value][..., None])  # with constant H and S, RGB scale like V


def _rotate(image: ImageArray, degrees: float) -> ImageArray:
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    turned = cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned, dtype=np.uint8)


def _encode_jpeg(image: ImageArray, quality: int) -> ImageArray:
    return _encode(image, "JPEG", quality=quality, subsampling="4:2:0")


def _encode_small_jpeg(image: ImageArray, longest: int, quality: int) -> ImageArray:
    return _encode_jpeg(_shrink(image, longest), quality)


def _encode_jpeg_twice(image: ImageArray) -> ImageArray:
    once = _encode_jpeg(image, 75)
    return _encode_jpeg(once[4:, 4:] if min(once.shape[:2]) > 16 else once, 75)


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


def _to_uint8(values: NDArray[Any]) -> ImageArray:
    """Round and clip, in place."""
    np.rint(values, out=values)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


_CORRUPT: dict[str, Callable[[ImageArray, Any], ImageArray]] = {
    "blur": _blur,
    "brightness": _brighten,
    "rotation": _rotate,
    "jpeg": _encode_jpeg,
}
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
