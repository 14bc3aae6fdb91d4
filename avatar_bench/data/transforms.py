"""Transforms from a decoded image to one of the network's input size, for evaluation and for training."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import albumentations
import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_bench.data.equalise import RESIZE_MODES, ImageArray, equalise, resize_to_square
from avatar_bench.errors import CheckpointError, ConfigError

EQUALISERS = ("jpeg",)


@dataclass(frozen=True)
class Preprocessing:
    """Bring any image to (size, size, 3); `mean` and `std`, of values in 0..1, are for the network to apply.

    resize: "squash" distorts to a square, "crop" keeps the centred square, "pad" adds white to both sides. equalise:
    "jpeg" first encodes every image alike, see data/equalise.py; None does not. Raise ValueError on values that cannot
    be used.
    """

    size: int
    resize: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    equalise: str | None = None

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 1:
            raise ValueError(f"size must be a whole number above 0, not {self.size!r}")
        if self.resize not in RESIZE_MODES:
            raise ValueError(f"resize must be one of {', '.join(RESIZE_MODES)}, not {self.resize!r}")
        if self.equalise not in (None, *EQUALISERS):
            raise ValueError(f"equalise must be null or {', '.join(EQUALISERS)}, not {self.equalise!r}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} must be three finite numbers, not {values!r}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, not {self.std!r}")

    def __call__(self, image: ImageArray) -> ImageArray:
        """Resize (H, W, 3) uint8 RGB to (size, size, 3) uint8; the image itself is given back where it fits."""
        return resize_to_square(equalise(image, self.resize) if self.equalise else image, self.size, self.resize)

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as numbers, strings and lists, fit for JSON or a checkpoint."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Preprocessing:
        """Restore what `to_dict` gave; raise CheckpointError on a missing, unknown or unusable value."""
        try:
            triples = {name: tuple(float(value) for value in state[name]) for name in ("mean", "std")}
            return cls(**{**state, **triples})
        except KeyError as error:
            raise CheckpointError(f"The checkpoint's preprocessing lacks {error}.") from error
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"The checkpoint's preprocessing cannot be used: {error}.") from error


@dataclass(frozen=True)
class Augmentation:
    """Vary a training image that has the network's size; each part is off at 0.

    flip: probability of a mirror image. jitter: largest relative change of brightness, contrast and saturation, and
    shift of hue in turns. rotation: largest angle, degrees, both ways. noise: largest standard deviation of Gaussian
    noise, as a share of 255. Raise ConfigError on a value out of range.
    """

    flip: float = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    rotation: float = 0.0
    noise: float = 0.0
    _compose: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_range("flip", self.flip, 1)
        _check_range("rotation", self.rotation, 180)
        _check_range("noise", self.noise, 1)
        if len(self.jitter) != 4:
            raise ConfigError(f"data.augment.jitter: expected 4 numbers, not {len(self.jitter)}.")
        for value, highest in zip(self.jitter, (1, 1, 1, 0.5), strict=True):
            _check_range("jitter", value, highest)
        # Built here, not at the first call: worker processes then inherit the import, which takes a second.
        object.__setattr__(self, "_compose", _compose(self))

    @property
    def is_active(self) -> bool:
        """Tell whether any part is on."""
        return self._compose is not None

    def __call__(self, image: ImageArray, seed: int) -> ImageArray:
        """Vary (H, W, 3) uint8 RGB, same shape; the result depends on `image` and `seed` (0 or above) alone."""
        if self._compose is None:
            return image
        self._compose.set_random_seed(seed)
        varied: ImageArray = self._compose(image=image)["image"]
        return varied


@dataclass(frozen=True)
class RandomViews:
    """Make several random views of one image, for a network to compare.

    size: pixels a side of the `large` views, whose crops take from `crop_scale` of the image's area to all of it.
    local_size: of the `small` ones, whose crops take from a twentieth to `crop_scale`. flip, grey, blur: probabilities.
    jitter: strength of the change of colours, by which .8 of the views are changed: brightness and contrast by up to .8
    of it, saturation by .4, hue by .2. Caron et al., ICCV 2021, after Chen et al., ICML 2020.
    """

    size: int
    crop_scale: float
    large: int = 2
    small: int = 0
    local_size: int = 0
    flip: float = 0.5
    jitter: float = 0.5
    grey: float = 0.2
    blur: float = 0.5
    _kinds: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        scales = (self.crop_scale, 1.0), (min(0.05, self.crop_scale), self.crop_scale)
        kinds = zip((self.large, self.small), (self.size, self.local_size), scales, strict=True)
        composed = [(count, _compose_view(self, side, scale)) for count, side, scale in kinds if count]
        object.__setattr__(self, "_kinds", composed)

    def __call__(self, image: ImageArray, seed: int) -> list[ImageArray]:
        """Give the views of (H, W, 3) uint8 RGB, the large ones first; they depend on `image` and `seed` alone."""
        seeds = iter(np.random.default_rng(seed).integers(0, 2**31, self.large + self.small).tolist())
        views = []
        for count, compose in self._kinds:
            for _ in range(count):
                compose.set_random_seed(next(seeds))
                views.append(compose(image=image)["image"])
        return views


def _check_range(name: str, value: float, highest: float) -> None:
    if not 0 <= value <= highest:
        raise ConfigError(f"data.augment.{name}: {value} is out of range.", f"Expected 0 (off) to {highest}.")


def _compose_view(views: RandomViews, side: int, scale: tuple[float, float]) -> Any:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    colours = (0.8 * views.jitter, 0.8 * views.jitter, 0.4 * views.jitter, 0.2 * views.jitter)
    steps: list[Any] = [
        albumentations.RandomResizedCrop((side, side), scale=scale, p=1),
        albumentations.HorizontalFlip(p=views.flip),
        albumentations.ColorJitter(*colours, p=0.8 if views.jitter else 0),
        albumentations.ToGray(p=views.grey),
        albumentations.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 2.0), p=views.blur),
    ]
    return albumentations.Compose([step for step in steps if step.p])


def _compose(wanted: Augmentation) -> Any:
    """Build the albumentations pipeline, or None where all is off."""
    if not (wanted.flip or any(wanted.jitter) or wanted.rotation or wanted.noise):
        return None
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks a server for newer versions when imported, otherwise
    import albumentations

    steps: list[Any] = []
    if wanted.flip:
        steps.append(albumentations.HorizontalFlip(p=wanted.flip))
    if any(wanted.jitter):
        steps.append(albumentations.ColorJitter(*wanted.jitter, p=1))
    if wanted.rotation:
        # Reflected, not white: drawings stand on white, so white corners on photos would teach a false cue.
        limit = (-wanted.rotation, wanted.rotation)
        steps.append(albumentations.Rotate(limit, border_mode=cv2.BORDER_REFLECT_101, p=1))
    if wanted.noise:
        steps.append(GaussianNoise(std_range=(0, wanted.noise), p=1))
    return albumentations.Compose(steps)


class GaussianNoise(albumentations.GaussNoise):  # type: ignore[misc]
    """Add the same noise to uint8 RGB, bit for bit, without its detour by 64-bit numbers."""

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the noise, float32 (H, W, 3), as a share of 255."""
        sigma, mean = self.py_random.uniform(*self.std_range), self.py_random.uniform(*self.mean_range)
        cv2.setRNGSeed(int(self.random_generator.integers(0, 2**16)))
        noise = np.empty(data["image"].shape, np.float32)
        cv2.randn(noise, np.full(3, mean, np.float32), np.full(3, sigma, np.float32))
        return {"noise_map": noise}

    def apply(self, img: NDArray[np.uint8], noise_map: NDArray[np.float32], **params: Any) -> Any:
        """Add it, its fraction cut off."""
        noise_map *= 255
        return cv2.add(img, noise_map.astype(np.int16), dtype=cv2.CV_8U)
