"""Image of a source before it is stored, and its square crop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CropBox = tuple[float, float, float]


@dataclass(frozen=True)
class SourceImage:
    """Image of a source as found, with its metadata; an empty string means unknown.

    `name` is its unique path within the source, with suffix. `content` is its file, which is never modified, or its
    bytes. `box` is (left, top, side) of the square to crop, as fractions of width, height and width; None means the
    whole image. `group` names images of the source that must stay on one side of a split; `shared_group` does so across
    sources.
    """

    name: str
    content: Path | bytes
    label: str = ""  # "": the source's own
    source: str = ""  # "": the source's own name
    box: CropBox | None = None
    group: str = ""
    shared_group: str = ""
    generator: str = ""
    licence: str = ""
    author: str = ""
    url: str = ""
    split: str = ""

    def read(self) -> bytes:
        """Return the bytes; raise OSError if the file cannot be read."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


def crop_square(image: NDArray[np.uint8], box: CropBox | None = None) -> NDArray[np.uint8]:
    """Return the square of an image, (H, W, 3), given by `box`, shifted to lie within it; the image if None."""
    if box is None:
        return image
    height, width = image.shape[:2]
    side = min(height, width, max(1, round(box[2] * width)))
    left = min(round(box[0] * width), width - side)
    top = min(round(box[1] * height), height - side)
    return np.ascontiguousarray(image[top : top + side, left : left + side])
