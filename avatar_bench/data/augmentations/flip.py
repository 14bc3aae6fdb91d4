"""Mirroring from left to right, by its probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import albumentations


@dataclass(frozen=True)
class Flip:
    """Mirroring with a probability."""

    probability: float

    def make_transform(self) -> Any:
        """Return the step of albumentations."""
        return albumentations.HorizontalFlip(p=self.probability)
