"""Image corruptions at five severities, and how variations of images are applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from avatar_bench.config.entries import Entry, find_entries, find_entry
from avatar_bench.data.delivery import encode
from avatar_bench.data.equalise import ImageArray
from avatar_bench.errors import ConfigError

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
    found = find_entries("corruption")
    others = sorted(found.keys() - set(STANDARD_CORRUPTIONS), key=lambda name: (not found[name].is_builtin, name))
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
