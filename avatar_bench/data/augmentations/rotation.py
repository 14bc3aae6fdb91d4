"""Random rotation, by the maximum angle in degrees, in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import albumentations
import cv2


@dataclass(frozen=True)
class Rotation:
    """Rotation by up to an angle in degrees, both ways."""

    degrees: float

    def make_transform(self) -> Any:
        """Return the step of albumentations."""
        # Reflected, not white: drawings have white backgrounds, so white corners on photos would add a false cue.
        limit = (-self.degrees, self.degrees)
        return albumentations.Rotate(limit, border_mode=cv2.BORDER_REFLECT_101, p=1)
