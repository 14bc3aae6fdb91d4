"""Drawn images, and others that are about as near to them as a copy may be."""

import numpy as np
from PIL import Image

from avatar_bench.data.fingerprints import ORIENTATIONS


def paint(seed):
    """Return an image of soft patches, (48, 48), that no other seed gives."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC)


def save_near_copies(root):
    """Save for each of sixty images in a/ and b/ one with a share of another, turned, by name before it or after."""
    for seed in range(60):
        image = np.asarray(Image.blend(paint(seed), paint(seed + 1000), 0.1 + 0.01 * (seed % 20)))
        turned = np.ascontiguousarray(list(ORIENTATIONS.values())[seed % 8](image))
        Image.fromarray(turned).save(root / "ab"[seed % 2] / f"{'-z'[seed // 2 % 2]}{seed:02}.png")
