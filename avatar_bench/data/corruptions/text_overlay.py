"""Name in a dark band across the image, as sites and memes write it: by the height of the band, as a fraction."""

from __future__ import annotations

import string

import cv2
import numpy as np

from avatar_bench.data.equalise import ImageArray

PARAMETERS = (0.08, 0.14, 0.2, 0.28, 0.38)
_FONT = cv2.FONT_HERSHEY_DUPLEX
_LETTERS = np.array([*string.ascii_uppercase, *string.digits])
_MEASURED = 4.0  # size of letters at which the text is measured: widths of small ones are rounded
_DARKENED = 0.35  # brightness of the image under the band


def corrupt(image: ImageArray, share: float, seed: int) -> ImageArray:
    """Darken a band at the top or at the bottom, and write seven letters or digits into it; both depend on the seed."""
    height, width = image.shape[:2]
    rng = np.random.default_rng(seed)
    is_top, text = bool(rng.integers(2)), "".join(rng.choice(_LETTERS, 7))
    drawn, size = image.copy(), max(1, round(share * height))
    band = drawn[:size] if is_top else drawn[-size:]
    band[:] = _DARKENED * band
    (wide, high), _ = cv2.getTextSize(text, _FONT, _MEASURED, 1)
    scale = min(0.7 * size / high, 0.9 * width / wide)  # of the text measured
    place = round((width - scale * wide) / 2), round((size + scale * high) / 2)
    line = max(1, round(scale * _MEASURED * 1.5))
    written = cv2.putText(
        np.ascontiguousarray(band), text, place, _FONT, scale * _MEASURED, (255, 255, 255), line, cv2.LINE_AA
    )
    band[:] = written
    return drawn
