"""Mirroring from left to right, by its probability."""

from __future__ import annotations

from typing import Any

import albumentations

RESEMBLES = ()


def make_transform(probability: float) -> Any:
    """Return the step of albumentations."""
    return albumentations.HorizontalFlip(p=probability)
