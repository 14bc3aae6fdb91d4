"""Measured properties of an image file: storage format, appearance, colours and noise."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn, rfft2

from avatar_bench.audit.evidence_rules import EVIDENCE_SAYS, conclude, find_evidence
from avatar_bench.audit.file_metadata import read_metadata, select_hints
from avatar_bench.data.decoding import FORMATS, decode_bytes
from avatar_bench.data.image_slices import estimate_jpeg_quality

Value = float | str | bool
Pixels = NDArray[np.uint8]
Float32Array = NDArray[np.float32]

HISTOGRAM_BINS, SPECTRUM_BANDS, DCT_DIAGONALS = 16, 16, range(1, 15)

METADATA = ("format", "mode", "width", "height", "aspect", "jpeg_quality", "subsampling", "progressive", "exif", "icc")
APPEARANCE = ("bytes_per_pixel", "grey", "brightness", "contrast", "saturation", "sharpness")
COLOUR = tuple(f"{channel}_{index:02}" for channel in ("red", "green", "blue") for index in range(HISTOGRAM_BINS))
RESIDUAL = (
    *(f"spectrum_{band:02}" for band in range(SPECTRUM_BANDS)),
    *(f"dct_{diagonal:02}" for diagonal in DCT_DIAGONALS),
    *(f"noise_{channel}" for channel in ("red", "green", "blue")),
    *(f"kurtosis_{channel}" for channel in ("red", "green", "blue")),
    *(f"correlation_{pair}" for pair in ("red_green", "red_blue", "green_blue")),
    *(f"neighbour_{direction}" for direction in ("right", "below", "diagonal")),
    "blockiness",
)

GREY_TOLERANCE = 8  # levels of 255; JPEG's chroma rounding shifts the channels of a grey image by a few
SHARPNESS_SIDE = 96  # at 256, most avatars are enlarged and the measure depends on size (rank correlation .6)
NOISE_CROP = 256
_FLOOR = 1e-3  # squared levels of 255, added before a logarithm: far below the rounding error of 8 bits

# Thresholds of outliers, set on 2,178 avatars of all kinds: the lowest contrast is .06. The lowest ratio of the
# Laplacian's variance to luma's is .024 (an old engraving), the next .07; a Gaussian blur of 2 % of the side brings
# 96 of 100 images below .02.
TINY_SIDE = 48  # pixels of the shorter side: half of the smallest avatar
BLANK_CONTRAST = 0.02
# Variance of the Laplacian over that of luma, so that pale or dark images do not count as blurred
BLURRED_VARIANCE = 0.02
EXTREME_ASPECT = 2.5  # a strip loses most of its area when cropped to a square, and its faces when squashed

_SUBSAMPLING = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (4, 1): "4:1:1", (1, 2): "4:4:0"}


def measure(data: bytes, name: str = "") -> dict[str, Value]:
    """Measure a file: METADATA, APPEARANCE, COLOUR, RESIDUAL, HINTS and EVIDENCE_SAYS; raise DataError, with `name`."""
    pixels, metadata = decode_bytes(data, name), read_metadata(data)
    return {
        **measure_metadata(data, pixels),
        **measure_appearance(pixels, len(data)),
        **measure_colour(pixels),
        **measure_residual(pixels),
        **select_hints(metadata),
        EVIDENCE_SAYS: conclude(find_evidence(metadata)),
    }


def measure_metadata(data: bytes, pixels: Pixels) -> dict[str, Value]:
    """Measure how a file is stored, independently of what it shows.

    `mode` is Pillow's mode of the stored samples; `width` and `height` are pixels of the upright image and `aspect` is
    their ratio; `jpeg_quality` is libjpeg's, 1 to 100, -1 for other formats; `subsampling` is "4:2:0" or the like,
    "grey" for a JPEG with one channel, "" for other formats; `progressive` means stored in passes (JPEG, PNG).
    """
    height, width = pixels.shape[:2]
    with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
        info = {str(key).lower() for key, value in image.info.items() if value}
        tables = getattr(image, "quantization", {})
        return {
            "format": "JPEG" if tables else image.format or "",  # Pillow calls a JPEG with several images MPO
            "mode": image.mode,
            "width": width,
            "height": height,
            "aspect": width / height,
            "jpeg_quality": estimate_jpeg_quality(tables[min(tables)]) if tables else -1,
            "subsampling": _name_subsampling(image.layer) if tables else "",  # type: ignore[attr-defined]
            "progressive": bool(info & {"progressive", "interlace"}),
            "exif": bool(info & {"exif", "raw profile type exif"}),
            "icc": "icc_profile" in info,
        }


def measure_appearance(pixels: Pixels, size: int) -> dict[str, Value]:
    """Measure the overall appearance of an image, (H, W, 3) RGB; `size` is the file size in bytes.

    `bytes_per_pixel`; `grey`, proportion of pixels whose channels differ by at most GREY_TOLERANCE of 255; `brightness`
    and `contrast`, mean and standard deviation of luma (BT.601) in 0..1; `saturation`, mean over pixels of
    (max - min) / max of the channels; `sharpness`, log10(1 + variance of the Laplacian of luma in 0..255), with the
    longest side resized to SHARPNESS_SIDE, so that it does not depend on the size (Pech-Pacheco et al., 2000).
    """
    luma = _compute_luma(pixels)
    red, green, blue = cv2.split(pixels)  # numpy is many times slower, or needs many times the memory
    brightness, contrast = (float(value.item()) / 255 for value in cv2.meanStdDev(luma))
    spread = cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)
    return {
        "bytes_per_pixel": size / luma.size,
        "grey": float((spread <= GREY_TOLERANCE).mean()),
        "brightness": brightness,
        "contrast": contrast,
        "saturation": cv2.mean(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV))[1] / 255,
        "sharpness": _sharpness(luma),
    }


def measure_colour(pixels: Pixels) -> dict[str, Value]:
    """Measure the proportion of pixels in each of 16 equal bins of each channel: 48 values, COLOUR."""
    counts = [cv2.calcHist([pixels], [channel], None, [HISTOGRAM_BINS], [0, 256]).ravel() for channel in range(3)]
    return dict(zip(COLOUR, (np.concatenate(counts) / pixels[..., 0].size).tolist(), strict=True))


def measure_residual(pixels: Pixels) -> dict[str, Value]:
    """Measure noise statistics at the image's own resolution, in a central crop of at most NOISE_CROP: RESIDUAL.

    The residual is the image minus its 3 x 3 median. `spectrum`: log10 power of luma's residual, averaged over
    directions, in 16 bands from zero to the Nyquist frequency (Durall et al., 2020; Corvi et al., 2023). `dct`: log10
    energy of the AC coefficients of 8 x 8 blocks of luma by diagonal (Frank et al., 2020). `noise` and `kurtosis`:
    log10 variance and excess kurtosis by channel (Zoran and Weiss, 2009). `correlation`: between the residuals of two
    channels (McCloskey and Albright, 2018). `neighbour`: between luma's residual and that of the next pixel (Popescu
    and Farid, 2005). `blockiness`: log10 ratio of the steps across borders of 8 x 8 blocks to those within blocks (Fan
    and de Queiroz, 2003).
    """
    crop = _crop_centre(pixels)
    luma = _compute_luma(crop)
    noise = np.stack([_noise(np.asarray(channel, np.uint8)).ravel() for channel in cv2.split(crop)])
    grey = _noise(luma)
    values = [
        *_spectrum(grey),
        *_block_energy(luma),
        *_moments(noise),
        *(_correlation(noise[a], noise[b]) for a, b in ((0, 1), (0, 2), (1, 2))),
        *(_correlation(grey[:-1, :-1], shifted) for shifted in (grey[:-1, 1:], grey[1:, :-1], grey[1:, 1:])),
        _blockiness(luma.astype(np.float32)),
    ]
    return dict(zip(RESIDUAL, map(float, values), strict=True))


def find_outliers(frame: pd.DataFrame) -> pd.Series[str]:
    """Return the kind of outlier of each measured file: "tiny", "blank", "extreme aspect", "blurred" or ""."""
    aspect = frame["aspect"].astype(float)
    edges = (10 ** frame["sharpness"].astype(float) - 1) / (255 * frame["contrast"].astype(float)) ** 2
    odd = {
        "tiny": frame[["width", "height"]].min(axis=1) < TINY_SIDE,
        "blank": frame["contrast"] < BLANK_CONTRAST,
        "extreme aspect": np.maximum(aspect, 1 / aspect) > EXTREME_ASPECT,
        "blurred": edges < BLURRED_VARIANCE,
    }
    return pd.Series(np.select(list(odd.values()), list(odd), ""), index=frame.index, dtype=str)


def _name_subsampling(layers: list[tuple[int, int, int, int]]) -> str:
    if len(layers) == 1:
        return "grey"
    (_, across, down, _), (_, chroma_across, chroma_down, _) = layers[:2]
    return _SUBSAMPLING.get((across // chroma_across, down // chroma_down), "other")


def _compute_luma(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _sharpness(luma: Pixels) -> float:
    height, width = luma.shape
    scale = SHARPNESS_SIDE / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    resized = cv2.resize(luma, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return float(np.log10(1 + cv2.Laplacian(resized, cv2.CV_32F).var()))


def _crop_centre(pixels: Pixels) -> Pixels:
    """Crop the centre, aligned to JPEG blocks; pad images by reflection that are too small to fill every band."""
    height, width = pixels.shape[:2]
    top, left = (max(side - NOISE_CROP, 0) // 2 // 8 * 8 for side in (height, width))
    crop = pixels[top : top + NOISE_CROP, left : left + NOISE_CROP]
    missing = [(0, max(2 * SPECTRUM_BANDS - side, 0)) for side in crop.shape[:2]]
    return np.ascontiguousarray(np.pad(crop, [*missing, (0, 0)], mode="symmetric"))


def _noise(channel: Pixels) -> Float32Array:
    return np.subtract(channel, cv2.medianBlur(channel, 3), dtype=np.float32)


def _spectrum(noise: Float32Array) -> Float32Array:
    height, width = noise.shape
    window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    power = np.abs(rfft2(noise * window)) ** 2 / (window**2).sum()
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    # the last band, the corners beyond the Nyquist frequency, is left out
    band = np.minimum(radius * 2 * SPECTRUM_BANDS, SPECTRUM_BANDS).astype(np.intp).ravel()
    mean = np.bincount(band, power.ravel())[:SPECTRUM_BANDS] / np.bincount(band)[:SPECTRUM_BANDS]
    return np.asarray(np.log10(mean + _FLOOR), dtype=np.float32)


def _block_energy(luma: Pixels) -> list[float]:
    rows, columns = (side // 8 for side in luma.shape)
    blocks = luma[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8).swapaxes(1, 2)
    energy = (dctn(blocks.astype(np.float32), axes=(2, 3), norm="ortho") ** 2).mean(axis=(0, 1))
    flipped = energy[:, ::-1]
    return [float(np.log10(flipped.diagonal(7 - diagonal).mean() + _FLOOR)) for diagonal in DCT_DIAGONALS]


def _moments(noise: Float32Array) -> list[float]:
    squares = (noise - noise.mean(axis=1, keepdims=True)) ** 2
    variance = squares.mean(axis=1)
    kurtosis = (squares**2).mean(axis=1) / np.maximum(variance, _FLOOR) ** 2 - 3
    return [*np.log10(variance + _FLOOR), *np.where(variance > _FLOOR, kurtosis, 0)]


def _correlation(left: Float32Array, right: Float32Array) -> float:
    left, right = left - left.mean(), right - right.mean()
    scale = np.sqrt((left**2).mean() * (right**2).mean())
    return float((left * right).mean() / scale) if scale > _FLOOR else 0.0


def _blockiness(luma: Float32Array) -> float:
    steps = [np.abs(np.diff(luma, axis=1)).mean(axis=0), np.abs(np.diff(luma, axis=0)).mean(axis=1)]
    border = np.concatenate([step[7::8] for step in steps]).mean()
    inside = np.concatenate([np.delete(step, np.s_[7::8]) for step in steps]).mean()
    return float(np.log10((border + 0.1) / (inside + 0.1)))
