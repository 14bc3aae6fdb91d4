"""An image on its way into a data set, and the square that is cut of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CropBox = tuple[float, float, float]


@dataclass(frozen=True)
class SourceImage:
    """Hold one image of a source as it was found, and what is known of it; an empty string means not known.

    `name` is its path within the source, unique there, with its ending. `content` is the file where it lies, which is
    never touched, or its bytes. `box` is (left, top, side) of the square to cut, as shares of width, height and width;
    None: the whole image. `group` names what must stay on one side of a split within its source; `shared_group` the
    same across sources.
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
        """Give the bytes; raise OSError where the file cannot be read."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


def crop_square(image: NDArray[np.uint8], box: CropBox | None = None) -> NDArray[np.uint8]:
    """Give the square of an image, (H, W, 3), that `box` names, moved to lie within it; None gives the image."""
    if box is None:
        return image
    height, width = image.shape[:2]
    side = min(height, width, max(1, round(box[2] * width)))
    left = min(round(box[0] * width), width - side)
    top = min(round(box[1] * height), height - side)
    return np.ascontiguousarray(image[top : top + side, left : left + side])
