"""Variations of images: corruptions at five severities, re-encoding as by web platforms, and slight changes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import features

from avatar_bench.config.entries import Entry, find_entries, find_entry
from avatar_bench.data.equalise import ImageArray
from avatar_bench.errors import ConfigError

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset

SEVERITIES = (1, 2, 3, 4, 5)
RESOLUTIONS = ("input", "native")
STANDARD_CORRUPTIONS = ("noise", "blur", "brightness", "rotation", "jpeg")  # those that the mean robustness is over


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

    def encode(self, image: ImageArray, seed: int) -> tuple[bytes, str]:
        """Return a file that decodes to the varied copy, and its format: that of its lossy compression, else PNG."""


@dataclass(frozen=True)
class Corruption:
    """Corruption of an image at a severity of 1 to 5; the image keeps its size.

    `kind` names a class of corruption_kinds, or corruption/KIND.py in a user's folder. It states PARAMETERS, one for
    each severity, and corrupt(image, parameter, seed). Raise ConfigError for an unknown kind or an incomplete module,
    ValueError for an unknown severity or resolution.
    """

    kind: str
    severity: int
    at: str = "input"
    _digest: str = field(init=False, repr=False)  # of a user's code, which may change

    def __post_init__(self) -> None:
        for name, known in (("severity", SEVERITIES), ("at", RESOLUTIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, not {getattr(self, name)!r}")
        entry = find_entry("corruption", self.kind)
        object.__setattr__(self, "_digest", "" if entry.is_builtin else entry.digest)
        _load(self.kind, self._digest)

    @property
    def parameter(self) -> Any:
        """Return the parameter of this kind and severity."""
        return _load(self.kind, self._digest)[1].PARAMETERS[self.severity - 1]

    @property
    def key(self) -> str:
        """Return the kind with its parameter, resolution, and the digest of a user's code."""
        return f"{self.kind} {self.parameter} at {self.at} {self._digest}".rstrip()

    def __call__(self, image: ImageArray, seed: int) -> ImageArray:
        """Corrupt (H, W, 3) uint8 RGB; raise ConfigError if a user's corruption fails or changes the size."""
        entry, module = _load(self.kind, self._digest)
        with entry.explain_failure():
            corrupted: ImageArray = module.corrupt(image, self.parameter, seed)
            if corrupted.shape != image.shape or corrupted.dtype != np.uint8:
                raise ValueError(f"corrupt returned {corrupted.dtype} {corrupted.shape} for uint8 {image.shape}")
        return corrupted

    def encode(self, image: ImageArray, seed: int) -> tuple[bytes, str]:
        """Return the corrupted image as a file, and its format: JPEG of a corruption that compresses, else PNG."""
        module = _load(self.kind, self._digest)[1]
        if hasattr(module, "compress"):
            content: bytes = module.compress(image, self.parameter)
            return content, "JPEG"
        return encode(self(image, seed), "PNG"), "PNG"


def list_corruptions() -> list[str]:
    """Return the names of all corruptions: the standard five, the other built-in ones, then those of users."""
    entries = find_entries("corruption")
    others = sorted(entries.keys() - set(STANDARD_CORRUPTIONS), key=lambda name: (not entries[name].is_builtin, name))
    return [*STANDARD_CORRUPTIONS, *others]


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


def list_versions(
    dataset: Dataset, row: int, variations: Iterable[Variation], prepare: Callable[[ImageArray], ImageArray]
) -> list[ImageArray]:
    """Return an image of a data set as `prepare` returns it, and under each variation."""
    image, seed = dataset.image(row), derive_seed(str(dataset.frame["sha256"].iat[row]))
    return [prepare(image), *(apply_variation(variation, image, prepare, seed) for variation in variations)]


@lru_cache
def _load(kind: str, digest: str) -> tuple[Entry, Any]:
    entry = find_entry("corruption", kind)
    module = entry.load()
    parameters, corrupt = (getattr(module, name, None) for name in ("PARAMETERS", "corrupt"))
    if not isinstance(parameters, tuple | list) or len(parameters) != len(SEVERITIES) or not callable(corrupt):
        raise ConfigError(
            f"corruption {kind}: {entry.module} is incomplete.",
            "Expected PARAMETERS, one for each of five severities, and corrupt(image, parameter, seed).",
        )
    return entry, module


UNTRAINED_TIER = "avif"  # its codec is kept out of every augmentation
_WEBP_MAX_SIDE = 16383  # pixels of a side


@dataclass(frozen=True)
class Delivery:
    """Re-encoding as done by web platforms, one of DELIVERY_TIERS, or a slight change, applied to the decoded image.

    web, hard, thumbnail_64, thumbnail_128: the longest side is reduced to 768, 512, 64 or 128 pixels (never enlarged),
    then JPEG of quality 60, 40, 85 or 85. webp: WebP of quality 75. double_jpeg: JPEG of quality 75 twice, cropped by 4
    pixels in between so that the block grids do not align. screenshot: scaled by 0.77 and then by 1.31, as on a screen
    of another pixel density, without lossy compression. avif: reduced to 768 pixels, then AVIF of quality 50, which no
    augmentation uses. Of SLIGHT_CHANGES, jpeg: JPEG of quality 70, resize: scaled by 0.75, mirror: left for right.
    Raise ValueError for an unknown tier, ConfigError if this Pillow cannot write AVIF.
    """

    at: ClassVar[str] = "native"  # applied before preprocessing
    tier: str

    def __post_init__(self) -> None:
        if self.tier not in _TIERS:
            raise ValueError(f"tier must be one of {', '.join(_TIERS)}, not {self.tier!r}")
        if _TIERS[self.tier][1] == "AVIF" and not features.check("avif"):
            raise ConfigError(
                f"delivery={self.tier}: this installation of Pillow cannot write AVIF.",
                "Install Pillow from its wheel, or leave the tier out: 'block.robustness.delivery=[web,hard]'.",
            )

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
    "screenshot": (lambda image: _scale(_scale(image, 0.77, cv2.INTER_AREA), 1.31, cv2.INTER_LINEAR), "PNG", {}),
    # the default speed takes ten times as long; one thread, as images are decoded in several processes
    "avif": (lambda image: _shrink(image, 768), "AVIF", {"quality": 50, "speed": 9, "max_threads": 1}),
}
DELIVERY_TIERS = tuple(_TIERS)
_TIERS |= {
    "jpeg": (lambda image: image, "JPEG", _make_jpeg_options(70)),
    "resize": (lambda image: _scale(image, 0.75, cv2.INTER_AREA), "PNG", {}),
    "mirror": (lambda image: np.asarray(cv2.flip(image, 1), dtype=np.uint8), "PNG", {}),
}
SLIGHT_CHANGES = tuple(Delivery(name) for name in _TIERS if name not in DELIVERY_TIERS)  # that no answer should follow
