"""Random brightness, contrast, saturation and hue, by the maximum change of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import albumentations


@dataclass(frozen=True)
class Jitter:
    """Relative changes of brightness, contrast and saturation, and a shift of hue in turns, each up to a maximum."""

    changes: tuple[float, float, float, float]

    def make_transform(self) -> Any:
        """Return the step of albumentations."""
        return albumentations.ColorJitter(*self.changes, p=1)
