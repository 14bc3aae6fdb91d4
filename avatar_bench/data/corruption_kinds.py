"""Built-in corruptions of an image, (H, W, 3) uint8 RGB: a class each, with a parameter for each of five severities."""

from __future__ import annotations

import string
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_bench.data.corruptions import decode, encode
from avatar_bench.data.equalise import ImageArray


class BlurCorruption:
    """Gaussian blur, by the side of its kernel and its sigma, in pixels."""

    PARAMETERS = ((3, 0.5), (5, 0.8), (5, 1.1), (9, 1.8), (15, 3.0))

    @staticmethod
    def corrupt(image: ImageArray, kernel: tuple[int, float], seed: int) -> ImageArray:
        """Blur, mirroring the image at its border: black or white would be a cue, as drawings are often on white."""
        side, sigma = kernel
        blurred = cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101)
        return np.asarray(blurred, dtype=np.uint8)


class BrightnessCorruption:
    """Brightness: V of HSV times a factor, clipped at white; hue and saturation are kept."""

    PARAMETERS = (1.15, 1.3, 1.5, 1.75, 2.0)

    @staticmethod
    def corrupt(image: ImageArray, factor: float, seed: int) -> ImageArray:
        red, green, blue = channels = cv2.split(image)
        scale = np.minimum(factor, 255 / np.maximum(np.arange(256, dtype=np.float32), 1))  # for each value of V
        scales = cv2.LUT(np.maximum(np.maximum(red, green), blue), scale)
        return _merge(channel * scales for channel in channels)  # with constant H and S, RGB scale like V


class ColourFilterCorruption:
    """Colour filter of a photo app: a tint, less colour, more contrast, mixed into the image by its strength."""

    PARAMETERS = (0.2, 0.35, 0.5, 0.75, 1.0)
    TINTS = ((1.1, 0.9, 0.65), (1.15, 1.0, 0.8), (0.75, 0.95, 1.2), (1.15, 0.8, 0.95), (0.8, 1.1, 0.85))
    CONTRAST, COLOUR = 1.35, 0.5  # factors of the distance from mid-grey, and from the grey of the same brightness
    LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601

    @classmethod
    def corrupt(cls, image: ImageArray, strength: float, seed: int) -> ImageArray:
        """Mix in the filtered image; the tint is drawn from the seed."""
        tint = np.array(cls.TINTS[np.random.default_rng(seed).integers(len(cls.TINTS))], dtype=np.float32)
        values = image.astype(np.float32)
        grey = (1 - cls.COLOUR) * (values @ cls.LUMA)

        def mix(channel: NDArray[Any], factor: np.float32) -> NDArray[np.float32]:
            contrasted = (cls.COLOUR * channel + grey - 128) * cls.CONTRAST + 128
            filtered = np.clip(np.clip(contrasted, 0, 255) * factor, 0, 255)
            return np.asarray((1 - strength) * channel + strength * filtered)

        return _merge(mix(channel, factor) for channel, factor in zip(cv2.split(values), tint, strict=True))


class JpegCorruption:
    """JPEG compression by its quality, colour at half resolution."""

    PARAMETERS = (80, 60, 30, 15, 8)

    @classmethod
    def corrupt(cls, image: ImageArray, quality: int, seed: int) -> ImageArray:
        return decode(cls.compress(image, quality))

    @staticmethod
    def compress(image: ImageArray, quality: int) -> bytes:
        """Encode alone: return the content of the JPEG file."""
        return encode(image, "JPEG", quality=quality, subsampling="4:2:0")


class NoiseCorruption:
    """Gaussian noise, independent for each channel: one pattern an image, scaled by its standard deviation, of 255."""

    PARAMETERS = (5, 10, 15, 25, 40)

    @staticmethod
    def corrupt(image: ImageArray, deviation: float, seed: int) -> ImageArray:
        return _round(image + np.float32(deviation) * _draw_noise(image.shape, seed))


class RotationCorruption:
    """Rotation about the centre by an angle in degrees, counter-clockwise."""

    PARAMETERS = (5, 10, 15, 25, 40)

    @staticmethod
    def corrupt(image: ImageArray, degrees: float, seed: int) -> ImageArray:
        """Rotate, mirroring the image at its border: black or white corners would be a cue, as for blur."""
        height, width = image.shape[:2]
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
        turned = cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        return np.asarray(turned, dtype=np.uint8)


class RoundCropCorruption:
    """Round crop with a border, as most sites show avatars: by the diameter of the circle as a fraction of the side."""

    PARAMETERS = (1.15, 1.05, 0.95, 0.85, 0.75)
    PAGES = np.array([[255, 255, 255], [24, 25, 28], [240, 242, 245]], dtype=np.float32)  # a white, a dark, a grey one
    BORDER = 0.06  # width as a fraction of the side

    @classmethod
    def corrupt(cls, image: ImageArray, diameter: float, seed: int) -> ImageArray:
        """Draw colours, and put a page and a border outside the circle, which is stretched like the image."""
        height, width = image.shape[:2]
        rng = np.random.default_rng(seed)
        page, border = cls.PAGES[rng.integers(len(cls.PAGES))], rng.integers(0, 256, 3).astype(np.float32)
        depth = diameter - _measure_distances(height, width)  # inside the edge of the circle, in half sides
        edge = min(height, width) / 2  # pixels of a half side: an edge is smoothed over one pixel
        inside, within_border = (np.clip(depth * edge + 0.5 - inset * edge, 0, 1) for inset in (0, 2 * cls.BORDER))
        ring, outside = inside - within_border, 1 - inside
        return _merge(
            within_border * channel + ring * colour + outside * ground
            for channel, colour, ground in zip(cv2.split(image), border, page, strict=True)
        )


@lru_cache(maxsize=1)  # images at the network's size have it in common
def _measure_distances(height: int, width: int) -> NDArray[np.float32]:
    """Return the distance of each pixel from the centre, (H, W), in half sides."""
    down, across = (2 * (np.arange(side, dtype=np.float32) + np.float32(0.5)) / side - 1 for side in (height, width))
    return np.hypot(down[:, None], across)


_TURN = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_LOBES = -13 * np.cos(_TURN) - 2.5 + 5 * np.cos(2 * _TURN) + 2 * np.cos(3 * _TURN) + np.cos(4 * _TURN)
_SPIKES = np.linspace(0, 2 * np.pi, 10, endpoint=False)


class StickerCorruption:
    """Sticker or emoji over part of the face, at a place drawn from the seed: by its size as a fraction of the side."""

    PARAMETERS = (0.12, 0.2, 0.3, 0.42, 0.55)
    SHAPES = (  # outlines within a radius of 1; y points down
        np.stack([np.sin(_TURN), np.cos(_TURN)], axis=1),  # a face, which gets eyes and a mouth
        np.stack([np.sin(_SPIKES), -np.cos(_SPIKES)], axis=1) * np.where(np.arange(10) % 2, 0.45, 1)[:, None],  # a star
        np.stack([16 * np.sin(_TURN) ** 3, _LOBES], axis=1) / 17,  # a heart
    )
    COLOURS = ((255, 204, 50), (235, 60, 70), (70, 130, 240), (60, 190, 110), (160, 90, 220))

    @classmethod
    def corrupt(cls, image: ImageArray, size: float, seed: int) -> ImageArray:
        """Draw a sticker around the middle of the upper part of the image, where faces are."""
        height, width = image.shape[:2]
        rng = np.random.default_rng(seed)
        kind = int(rng.integers(len(cls.SHAPES)))
        colour = cls.COLOURS[0 if kind == 0 else int(rng.integers(len(cls.COLOURS)))]
        centre = rng.uniform((0.35, 0.3), (0.65, 0.6)) * (width, height)
        radius, drawn = size * min(height, width) / 2, image.copy()
        _fill(drawn, centre + 1.15 * radius * cls.SHAPES[kind], (255, 255, 255))  # the white rim of a sticker
        _fill(drawn, centre + radius * cls.SHAPES[kind], colour)
        if kind == 0:
            for side in (-0.38, 0.38):
                _fill(drawn, centre + radius * ((side, -0.25) + 0.13 * cls.SHAPES[0]), (60, 40, 20))
            smile = cls.SHAPES[0][np.cos(_TURN) > 0.25]
            _fill(drawn, centre + radius * ((0, 0.15) + (0.55, 0.5) * smile), (60, 40, 20))
        return drawn


class TextOverlayCorruption:
    """Name in a dark band across the image, as sites and memes write it: by the height of the band, as a fraction."""

    PARAMETERS = (0.08, 0.14, 0.2, 0.28, 0.38)
    FONT = cv2.FONT_HERSHEY_DUPLEX
    LETTERS = np.array([*string.ascii_uppercase, *string.digits])
    MEASURED = 4.0  # size of letters at which the text is measured: widths of small ones are rounded
    DARKENED = 0.35  # brightness of the image under the band

    @classmethod
    def corrupt(cls, image: ImageArray, share: float, seed: int) -> ImageArray:
        """Darken a band at the top or at the bottom, and write seven letters or digits into it, drawn from the seed."""
        height, width = image.shape[:2]
        rng = np.random.default_rng(seed)
        is_top, text = bool(rng.integers(2)), "".join(rng.choice(cls.LETTERS, 7))
        drawn, size = image.copy(), max(1, round(share * height))
        band = drawn[:size] if is_top else drawn[-size:]
        band[:] = cls.DARKENED * band
        (wide, high), _ = cv2.getTextSize(text, cls.FONT, cls.MEASURED, 1)
        scale = min(0.7 * size / high, 0.9 * width / wide)  # of the text measured
        corner = round((width - scale * wide) / 2), round((size + scale * high) / 2)
        letters, line = scale * cls.MEASURED, max(1, round(scale * cls.MEASURED * 1.5))
        canvas = np.ascontiguousarray(band)
        band[:] = cv2.putText(canvas, text, corner, cls.FONT, letters, (255, 255, 255), line, cv2.LINE_AA)
        return drawn


def _round(values: NDArray[Any]) -> ImageArray:
    """Round and clip floats, in place."""
    np.rint(values, out=values)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def _merge(channels: Iterable[NDArray[Any]]) -> ImageArray:
    """Round and clip three channels of floats, (H, W), into an image; computed one by one, they stay in the cache."""
    return np.asarray(cv2.merge([_round(channel) for channel in channels]), dtype=np.uint8)


@lru_cache(maxsize=1)  # all severities of an image are processed in sequence
def _draw_noise(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _fill(image: ImageArray, outline: NDArray[np.float64], colour: tuple[int, int, int]) -> None:
    shift = 4  # fractional bits of coordinates in OpenCV
    points = np.rint(outline * 2**shift).astype(np.int32)
    cv2.fillPoly(image, [points], colour, lineType=cv2.LINE_AA, shift=shift)
