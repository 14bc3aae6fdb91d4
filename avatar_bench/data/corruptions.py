"""Corruptions of five severities, and delivery tiers: what happens to an image between the camera and the network."""

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
# One parameter a severity; the third is that of the study that this package re-does.
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
    """Change an image; a frozen, picklable dataclass, so that worker processes can be given it."""

    @property
    def key(self) -> str:
        """Name the variation with every parameter: what is cached under one key never means another image."""

    @property
    def at(self) -> str:
        """Say when it comes: "native", before preprocessing, or "input", after it."""

    def __call__(self, image: ImageArray, seed: int) -> ImageArray:
        """Give (H, W, 3) uint8 RGB changed, of any size; the result depends on `image` and `seed` (>= 0) alone."""


@dataclass(frozen=True)
class Corruption:
    """Corrupt an image by one of KINDS at a severity of 1 to 5; its size stays.

    noise: Gaussian, the same pattern at each severity, times its standard deviation. blur: Gaussian. brightness: HSV's
    V times a factor, hue and saturation kept, clipped at white. rotation: about the centre, bilinear. jpeg: 4:2:0.
    What blur and rotation need from beyond the border is mirrored: a black or white corner would be a cue of its own,
    as drawings often stand on one. Raise ValueError on an unknown kind, severity or place.
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
        """Give the entry of PARAMETERS."""
        return CORRUPTION_PARAMETERS[self.kind][self.severity - 1]

    @property
    def key(self) -> str:
        """Name it with its parameter and place."""
        return f"{self.kind} {self.parameter} at {self.at}"

    def __call__(self, image: ImageArray, seed: int) -> ImageArray:
        """Corrupt (H, W, 3) uint8 RGB; only noise looks at the seed."""
        if self.kind == "noise":
            return _add_noise(image, self.parameter, seed)
        return _CORRUPT[self.kind](image, self.parameter)


@dataclass(frozen=True)
class Delivery:
    """Send an image, as decoded from its file, through one of TIERS; raise ValueError on an unknown one.

    web, hard, thumbnail_64, thumbnail_128: the longest side brought down to 768, 512, 64 or 128 pixels, never up, then
    JPEG of quality 60, 40, 85 or 85. webp: WebP of quality 75. double_jpeg: JPEG of quality 75 twice, 4 pixels cut off
    between, so that its blocks fall elsewhere. screenshot: shown at .77 of its size and grabbed at 1.31 of that, as by
    a screen of another density, without loss.
    """

    tier: str

    def __post_init__(self) -> None:
        if self.tier not in DELIVERY_TIERS:
            raise ValueError(f"tier must be one of {', '.join(DELIVERY_TIERS)}, not {self.tier!r}")

    @property
    def at(self) -> str:
        """Say that it comes before preprocessing."""
        return "native"

    @property
    def key(self) -> str:
        """Name it; the number tells this recipe of the tier from later ones."""
        return f"delivery {self.tier} 1"

    def __call__(self, image: ImageArray, seed: int) -> ImageArray:
        """Give (H', W', 3) uint8 RGB, no larger than `image` but by rounding; the seed does not matter."""
        return _TIERS[self.tier](image)


def derive_seed(sha256: str) -> int:
    """Give the seed of an image's variations from its file's hash, in hex: the same for every network and order."""
    return int(sha256[:8], 16)


def apply_variation(
    variation: Variation, image: ImageArray, prepare: Callable[[ImageArray], ImageArray], seed: int
) -> ImageArray:
    """Vary a decoded image (H, W, 3) before or after `prepare` brings it to the network's size, as its `at` says."""
    if variation.at == "native":
        return prepare(variation(image, seed))
    return variation(prepare(image), seed)


def _add_noise(image: ImageArray, deviation: float, seed: int) -> ImageArray:
    return _to_uint8(image + np.float32(deviation) * _draw_noise(image.shape, seed))


@lru_cache(maxsize=1)  # the severities of an image come one after the other
def _draw_noise(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _blur(image: ImageArray, kernel: tuple[int, float]) -> ImageArray:
    side, sigma = kernel
    return np.asarray(cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101), dtype=np.uint8)


def _brighten(image: ImageArray, factor: float) -> ImageArray:
    value = np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])  # max(axis=2) takes ten times as long
    scale = np.minimum(factor, 255 / np.maximum(np.arange(256, dtype=np.float32), 1))  # of each value of V
    return _to_uint8(image * scale[value][..., None])  # with H and S kept, RGB scale as V does


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
