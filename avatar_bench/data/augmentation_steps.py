"""Built-in steps of the random augmentation of training images, a class each, and the corruptions that they resemble.

They make a transform of albumentations, so that one seed draws all of them, except for delivery, which is applied to
the image as stored.
"""

from __future__ import annotations

import math
import os
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torchvision.transforms import v2

from avatar_bench.data.corruptions import DELIVERY_TIERS, UNTRAINED_TIER, decode, encode
from avatar_bench.data.equalise import ImageArray

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # otherwise it queries a server for newer versions on import
import albumentations


class FlipAugmentation:
    """Mirroring from left to right, by its probability."""

    RESEMBLES = ()

    @staticmethod
    def make_transform(probability: float) -> Any:
        return albumentations.HorizontalFlip(p=probability)


class JitterAugmentation:
    """Random brightness, contrast, saturation and hue, by the maximum change of each."""

    RESEMBLES = ("brightness",)

    @staticmethod
    def make_transform(changes: tuple[float, float, float, float]) -> Any:
        """Return the step of albumentations: relative changes of the first three, a shift of hue in turns."""
        return albumentations.ColorJitter(*changes, p=1)


class RotationAugmentation:
    """Random rotation, by the maximum angle in degrees, in both directions."""

    RESEMBLES = ("rotation",)

    @staticmethod
    def make_transform(degrees: float) -> Any:
        # Reflected, not white: drawings have white backgrounds, so white corners on photos would add a false cue.
        return albumentations.Rotate((-degrees, degrees), border_mode=cv2.BORDER_REFLECT_101, p=1)


class NoiseAugmentation:
    """Random Gaussian noise, by its maximum standard deviation, as a fraction of 255."""

    RESEMBLES = ("noise",)

    @staticmethod
    def make_transform(deviation: float) -> Any:
        return GaussianNoise(std_range=(0, deviation), p=1)


class GaussianNoise(albumentations.GaussNoise):  # type: ignore[misc]
    """Gaussian noise on uint8 RGB, bit for bit that of albumentations, without its conversion to 64-bit floats."""

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the noise, float32 (H, W, 3), as a fraction of 255."""
        sigma, mean = self.py_random.uniform(*self.std_range), self.py_random.uniform(*self.mean_range)
        cv2.setRNGSeed(int(self.random_generator.integers(0, 2**16)))
        noise = np.empty(data["image"].shape, np.float32)
        cv2.randn(noise, np.full(3, mean, np.float32), np.full(3, sigma, np.float32))
        return {"noise_map": noise}

    def apply(self, img: NDArray[np.uint8], noise_map: NDArray[np.float32], **params: Any) -> Any:
        """Add the noise, truncated to integers."""
        noise_map *= 255
        return cv2.add(img, noise_map.astype(np.int16), dtype=cv2.CV_8U)


class RandaugmentAugmentation:
    """Two random changes of colour or geometry (RandAugment, Cubuk et al., 2020), by their magnitude of 0 to 30."""

    RESEMBLES = ("brightness", "rotation")

    @staticmethod
    def make_transform(magnitude: int) -> Any:
        return RandAugment(magnitude)


class RandAugment(albumentations.ImageOnlyTransform):  # type: ignore[misc]
    """RandAugment of torchvision on uint8 RGB, drawn by the random state of albumentations alone."""

    def __init__(self, magnitude: int) -> None:
        super().__init__(p=1)
        fill = 128  # grey: white corners would be a cue to drawings, which often have a white background
        self.change = v2.RandAugment(num_ops=2, magnitude=magnitude, fill=fill)  # type: ignore[attr-defined]  # no __all__

    def get_params(self) -> dict[str, Any]:
        """Draw the seed of the changes."""
        return {"seed": self.py_random.getrandbits(31)}

    def apply(self, img: NDArray[np.uint8], seed: int, **params: Any) -> Any:
        """Apply the changes, (H, W, 3); the global random state of torch stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return np.array(self.change(Pillow.fromarray(img)))


class DeliveryAugmentation:
    """Random re-encodings as done by web platforms, by the probability of a chain, before images are resized."""

    # an enlarged thumbnail lacks fine detail, as a blurred image does
    RESEMBLES = ("blur", "jpeg", *(f"delivery/{tier}" for tier in DELIVERY_TIERS if tier != UNTRAINED_TIER))
    SIDES = (64, 800)  # longest side in pixels, of images that are not smaller
    QUALITIES = (30, 95)  # of JPEG and WebP

    @classmethod
    def deliver(cls, image: ImageArray, rng: np.random.Generator) -> ImageArray:
        """Scale and re-encode (H, W, 3) uint8 RGB, or twice, enlarged or captured in between; return (H', W', 3)."""
        native, (smallest, most) = max(image.shape[:2]), cls.SIDES
        side = math.exp(rng.uniform(*np.log(cls.SIDES)))
        delivered = cls._reencode(_scale(image, side, rng) if side < native else image, rng)
        if rng.random() < 0.5:
            return delivered
        side, largest = max(delivered.shape[:2]), min(native, most)
        if rng.random() < 0.5:
            reposted = _scale(delivered, rng.uniform(side, max(side, largest)), rng)
        else:
            shown = _scale(delivered, min(side, max(smallest, side * rng.uniform(0.5, 1))), rng)
            reposted = _scale(shown, min(most, max(shown.shape[:2]) * rng.uniform(1, 2)), rng)
        return cls._reencode(reposted, rng)

    @classmethod
    def _reencode(cls, image: ImageArray, rng: np.random.Generator) -> ImageArray:
        """Encode as JPEG or WebP; of half of the images, rows and columns are cut off first, which moves blocks."""
        block = 8  # pixels of a side of a block of JPEG
        if min(image.shape[:2]) >= 4 * block and rng.random() < 0.5:
            top, left = rng.integers(1, block, 2)
            image = image[top:, left:]
        options: dict[str, Any] = {"quality": int(rng.integers(*cls.QUALITIES, endpoint=True))}
        if rng.random() < 0.3:
            return decode(encode(image, "WEBP", method=2, **options))  # in half the time of the default method
        return decode(encode(image, "JPEG", subsampling=str(rng.choice(("4:4:4", "4:2:0"))), **options))


def _scale(image: ImageArray, longest: float, rng: np.random.Generator) -> ImageArray:
    smooth = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
    scale = longest / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    method = int(rng.choice(smooth if scale > 1 else (*smooth, cv2.INTER_AREA)))
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)
