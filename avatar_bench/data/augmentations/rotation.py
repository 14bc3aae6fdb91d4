"""Random rotation, by the maximum angle in degrees, in both directions."""

from __future__ import annotations

from typing import Any

import albumentations
import cv2

RESEMBLES = ("rotation",)


def make_transform(degrees: float) -> Any:
    """Return the step of albumentations."""
    # Reflected, not white: drawings have white backgrounds, so white corners on photos would add a false cue.
    return albumentations.Rotate((-degrees, degrees), border_mode=cv2.BORDER_REFLECT_101, p=1)
