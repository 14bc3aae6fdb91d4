"""Two random changes of colour or geometry (RandAugment, Cubuk et al., NeurIPS 2020), by their magnitude of 0 to 30."""

from __future__ import annotations

from typing import Any

import albumentations
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torchvision.transforms import v2

RESEMBLES = ("brightness", "rotation")
_FILL = 128  # grey: white corners would be a cue to drawings, which often have a white background


def make_transform(magnitude: int) -> Any:
    """Return the step of albumentations."""
    return RandAugment(magnitude)


class RandAugment(albumentations.ImageOnlyTransform):  # type: ignore[misc]
    """RandAugment of torchvision on uint8 RGB, drawn by the random state of albumentations alone."""

    def __init__(self, magnitude: int) -> None:
        super().__init__(p=1)
        self.change = v2.RandAugment(num_ops=2, magnitude=magnitude, fill=_FILL)  # type: ignore[attr-defined]  # no __all__

    def get_params(self) -> dict[str, Any]:
        """Draw the seed of the changes."""
        return {"seed": self.py_random.getrandbits(31)}

    def apply(self, img: NDArray[np.uint8], seed: int, **params: Any) -> Any:
        """Apply the changes, (H, W, 3); the global random state of torch stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return np.array(self.change(Pillow.fromarray(img)))
