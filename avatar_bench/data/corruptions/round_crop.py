"""Round crop with a border, as most sites show avatars: by the diameter of the circle, as a fraction of the side."""

from __future__ import annotations

import numpy as np

from avatar_bench.data.corruptions import round_to_uint8
from avatar_bench.data.equalise import ImageArray

PARAMETERS = (1.15, 1.05, 0.95, 0.85, 0.75)
_PAGES = np.array([[255, 255, 255], [24, 25, 28], [240, 242, 245]], dtype=np.float32)  # a white, a dark, a grey one
_BORDER = 0.06  # width as a fraction of the side


def corrupt(image: ImageArray, diameter: float, seed: int) -> ImageArray:
    """Replace what is outside the circle by a page and a border in colours drawn from the seed.

    The circle is stretched like the image, so that it is round once the image is resized to a square.
    """
    height, width = image.shape[:2]
    rng = np.random.default_rng(seed)
    page, border = _PAGES[rng.integers(len(_PAGES))], rng.integers(0, 256, 3).astype(np.float32)
    down, across = (2 * (np.arange(side, dtype=np.float32) + np.float32(0.5)) / side - 1 for side in (height, width))
    depth = diameter - np.hypot(down[:, None], across)[..., None]  # inside the edge of the circle, in half sides
    edge = min(height, width) / 2  # pixels of a half side: an edge is smoothed over one pixel
    inside, within_border = (np.clip(depth * edge + 0.5 - inset * edge, 0, 1) for inset in (0, 2 * _BORDER))
    return round_to_uint8(within_border * image + (inside - within_border) * border + (1 - inside) * page)
