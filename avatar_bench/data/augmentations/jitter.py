"""Random brightness, contrast, saturation and hue, by the maximum change of each."""

from __future__ import annotations

from typing import Any

import albumentations

RESEMBLES = ("brightness",)


def make_transform(changes: tuple[float, float, float, float]) -> Any:
    """Return the step of albumentations: relative changes of the first three, a shift of hue in turns."""
    return albumentations.ColorJitter(*changes, p=1)
