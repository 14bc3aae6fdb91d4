"""Random Gaussian noise, by its maximum standard deviation, as a fraction of 255."""

from __future__ import annotations

from typing import Any

import albumentations
import cv2
import numpy as np
from numpy.typing import NDArray

RESEMBLES = ("noise",)


def make_transform(deviation: float) -> Any:
    """Return the step of albumentations."""
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
