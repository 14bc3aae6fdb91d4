"""A picture on its way into a data set: cut square, put on a plain ground, made small and encoded like all others."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

from PIL import Image

# Every class draws its side and quality from the same values, so that neither tells the class. No picture is made
# larger; those smaller than the side drawn keep their own.
SIDES = (96, 112, 128, 160, 192, 224, 256)
QUALITIES = (75, 80, 85, 90, 95)
GROUNDS = ("white", "white", "white", "#eceff1", "#f5efe6", "#dbe7f3", "#cfe3d4", "#f2d9d9", "#d9d4e8", "#b8c4cc")


@dataclass(frozen=True)
class Picture:
    """Hold one picture of a source as it was found, and what is known of it.

    `box` is (left, top, side) of a square, as shares of width, height and width; None: the central square.
    `group` names what must stay on one side of a split within its source; `shared_group` the same across sources.
    """

    name: str
    image: Image.Image
    sha256: str  # of the bytes found
    box: tuple[float, float, float] | None = None
    group: str = ""
    shared_group: str = ""
    generator: str = ""
    licence: str = ""
    author: str = ""
    url: str = ""


@dataclass(frozen=True)
class Encoded:
    """Hold the JPEG bytes of a picture with its side in pixels and its quality."""

    data: bytes
    side: int
    quality: int


def encode(picture: Picture, seed: str) -> Encoded:
    """Cut, flatten, shrink and encode one picture as JPEG; side, quality and ground depend on `seed` alone."""
    draw = random.Random(seed)
    side, quality, ground = draw.choice(SIDES), draw.choice(QUALITIES), draw.choice(GROUNDS)
    image = flatten(cut(picture.image, picture.box), ground)
    side = min(side, image.width)
    image = image.resize((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Encoded(buffer.getvalue(), side, quality)


def cut(image: Image.Image, box: tuple[float, float, float] | None = None) -> Image.Image:
    """Give the square that `box` names, moved to lie within the picture, or the largest central one."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if box is not None:
        side = min(side, max(1, round(box[2] * image.width)))
        left = min(round(box[0] * image.width), image.width - side)
        top = min(round(box[1] * image.height), image.height - side)
    return image.crop((left, top, left + side, top + side))


def flatten(image: Image.Image, ground: str = "white") -> Image.Image:
    """Give the picture in RGB, with what is transparent replaced by the colour `ground`."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    plain = Image.new("RGBA", layer.size, ground)
    plain.alpha_composite(layer)
    return plain.convert("RGB")
