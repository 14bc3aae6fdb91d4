"""Equalisation of file properties: image size and JPEG quality are drawn alike for all classes."""

from __future__ import annotations

import io
import random

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from avatar_bench.data.decoding import decode_bytes
from avatar_bench.files.hashes import sha256_of_parts

EQUALISED_SIDES = (96, 112, 128, 160, 192, 224, 256)
EQUALISED_QUALITIES = (75, 80, 85, 90, 95)


def hash_pixels(image: ImageArray) -> str:
    """Compute the SHA-256 of the shape and the pixels of an image."""
    return sha256_of_parts((repr(image.shape).encode(), np.ascontiguousarray(image).data))


def draw_side_and_quality(image: ImageArray) -> tuple[int, int]:
    """Draw the side in pixels and the JPEG quality of an image, (H, W, 3); they depend on its pixels alone."""
    chosen = random.Random(bytes.fromhex(hash_pixels(image)))
    return chosen.choice(EQUALISED_SIDES), chosen.choice(EQUALISED_QUALITIES)


def equalise_bytes(image: ImageArray, resize: str = "squash") -> bytes:
    """Encode the image, (H, W, 3) uint8 RGB, as JPEG 4:2:0 with the side and quality of `draw_side_and_quality`."""
    side, quality = draw_side_and_quality(image)
    stream = io.BytesIO()
    Pillow.fromarray(resize_to_square(image, side, resize)).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    return stream.getvalue()


def equalise(image: ImageArray, resize: str = "squash") -> ImageArray:
    """Return the decoded result of `equalise_bytes`, (side, side, 3) uint8 RGB."""
    return decode_bytes(equalise_bytes(image, resize), "equalised")


ImageArray = NDArray[np.uint8]
RESIZE_MODES = ("squash", "crop", "pad")


def resize_to_square(image: ImageArray, side: int, resize: str) -> ImageArray:
    """Resize (H, W, 3) uint8 RGB to (side, side, 3) as `Preprocessing` says; return one of that size unchanged."""
    if resize == "pad":
        return _pad(image, side)
    return _resize(_crop_centre_square(image) if resize == "crop" else image, side, side)


def _resize(image: ImageArray, width: int, height: int) -> ImageArray:
    """Average along a side that shrinks, interpolate along one that grows, one after the other.

    Averaging avoids moire in fine texture, and cubic interpolation keeps edges sharp. The method is chosen per side
    because INTER_AREA falls back to bilinear, which aliases, as soon as one side grows.
    """
    image = _resize_with(image, min(width, image.shape[1]), min(height, image.shape[0]), cv2.INTER_AREA)
    return _resize_with(image, width, height, cv2.INTER_CUBIC)


def _resize_with(image: ImageArray, width: int, height: int, interpolation: int) -> ImageArray:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), dtype=np.uint8)


def _crop_centre_square(image: ImageArray) -> ImageArray:
    """Crop before resizing: a strip of 1 x 5000 would otherwise grow to a million columns first."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def _pad(image: ImageArray, size: int) -> ImageArray:
    scale = size / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    top, left = (size - height) // 2, (size - width) // 2
    if (height, width) == (size, size):
        return _resize(image, size, size)
    square = np.full((size, size, 3), 255, np.uint8)
    square[top : top + height, left : left + width] = _resize(image, width, height)
    return square
