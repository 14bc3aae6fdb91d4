"""Figures embedded in the page, resized to fit a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from avatar_bench.files.hashes import sha256_of_file

MAX_FIGURE_BYTES = 8_500_000  # bytes of WebP; base64 adds a third, and the page stays under 15 MB
MAX_FIGURES = 180  # figures in a page: each takes 0.1 s, and more are not useful in one page
QUALITY_STEPS = ((1000, 70), (800, 50), (600, 35))  # width in pixels and quality, tried in turn where space is short
_MAX_ASPECT = 4  # maximum ratio of height to width


@dataclass(frozen=True)
class InlineImage:
    """Figure as WebP, with its size in pixels."""

    data: bytes
    width: int
    height: int

    @property
    def data_url(self) -> str:
        """Return the image as a data URL."""
        return "data:image/webp;base64," + base64.b64encode(self.data).decode()


def inline_figures(
    files: Sequence[Path], budget: int = MAX_FIGURE_BYTES, most: int = MAX_FIGURES
) -> dict[Path, InlineImage]:
    """Return the first `most` figures as images that fit into `budget` bytes, in the order of `files`.

    The largest are resized first; if that is not enough, the last are left out. Repeated and unreadable figures are
    left out as well. The page links to what is left out.
    """
    first: dict[str, Path] = {}
    for file in files:
        if file.is_file():
            first.setdefault(sha256_of_file(file), file)
    unique = list(first.values())[:most]
    with ThreadPoolExecutor() as pool:  # Pillow releases the GIL
        shrunk = pool.map(lambda file: shrink(file, *QUALITY_STEPS[0]), unique)
        images = {file: image for file, image in zip(unique, shrunk, strict=True) if image is not None}
    over = sum(len(image.data) for image in images.values()) - budget
    for width, quality in QUALITY_STEPS[1:]:
        for file, image in sorted(images.items(), key=lambda pair: -len(pair[1].data)):
            resized = shrink(io.BytesIO(image.data), width, quality) if over > 0 else None
            if resized is not None and len(resized.data) < len(image.data):
                over -= len(image.data) - len(resized.data)
                images[file] = resized
    room, fitting = budget, {}
    for file, image in images.items():
        if len(image.data) <= room:
            fitting[file], room = image, room - len(image.data)
    return fitting


def shrink(source: Path | io.BytesIO, width: int, quality: int) -> InlineImage | None:
    """Return a figure as WebP at most `width` pixels wide; None where it cannot be read."""
    try:
        with Image.open(source) as image:
            opaque = _flatten_on_white(image)
        factor = min(opaque.width // width, 4)
        reduced = opaque.reduce(factor) if factor > 1 else opaque  # first by a whole factor, many times faster
        reduced.thumbnail((width, _MAX_ASPECT * width), Image.Resampling.BILINEAR)
        return encode(reduced, quality)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def encode(image: Image.Image, quality: int) -> InlineImage:
    """Return an RGB image as WebP."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality, method=2)
    return InlineImage(stream.getvalue(), *image.size)


def _flatten_on_white(image: Image.Image) -> Image.Image:
    """Return an image with its transparency on white: matplotlib writes an alpha channel even where all is opaque."""
    if "A" not in image.getbands() or image.getchannel("A").getextrema()[0] == 255:
        return image.convert("RGB")
    plate = Image.new("RGB", image.size, "white")
    plate.paste(image, mask=image.getchannel("A"))
    return plate
