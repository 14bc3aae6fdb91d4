"""Decoding of image files into upright 8-bit RGB, with a reason for every file that cannot be used."""

from __future__ import annotations

import ctypes
import io
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, _imaging

from avatar_bench.console.terminal import format_name
from avatar_bench.console.warning_filters import suppress_image_warnings
from avatar_bench.data import file_structure
from avatar_bench.data.shard_files import locate_image, measure_size
from avatar_bench.errors import DataError
from avatar_bench.files.remote import is_remote, read_remote

# Files within these limits take at most 5 s and 1.5 GiB. WebP and AVIF take twice as much per pixel, AVIF per byte too.
MAX_IMAGE_BYTES = 256 * 2**20
MAX_IMAGE_PIXELS = 50_000_000
_MAX_BYTES_BY_FORMAT = {"WEBP": 128 * 2**20, "AVIF": 32 * 2**20}
_MAX_PIXELS_BY_FORMAT = {"WEBP": 25_000_000, "AVIF": 25_000_000}

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "AVIF": (".avif",),
    "TIFF": (".tif", ".tiff"),
}
SUFFIXES: frozenset[str] = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

# Tried in order on the first KiB. The unsupported formats are listed so that errors can name them.
SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
    "AVIF": rb"....ftyp(?:....)*?avi[fs]",
    "HEIC": rb"....ftyp(?:hei|hev|mif|msf)",
    "video": rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ",
    "BMP": rb"BM",
    "ICO": rb"\0\0[\1\2]\0",
    "PBM": rb"P[14]\s",
    "PGM": rb"P[25]\s",
    "PPM": rb"P[36]\s",
    "PSD": rb"8BPS",
    "PDF": rb"%PDF",
    "ZIP": rb"PK\x03\x04",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "HTML": rb"\s*<(?i:!doctype html|html)",
    "SVG": rb".*?<svg",
}
_PATTERNS = {name: re.compile(pattern, re.DOTALL) for name, pattern in SIGNATURES.items()}

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262

# Pillow warns about odd metadata and large images without naming the file; serious problems raise DataError instead.
suppress_image_warnings()
with suppress(OSError, AttributeError):  # libtiff prints its errors in addition to those that Pillow raises
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def decode(file: Path) -> NDArray[np.uint8]:
    """Decode one file into (H, W, 3) uint8 RGB; raise DataError with file and reason if it cannot be used."""
    name = format_name(str(file))
    return decode_bytes(read_bytes(file, name), name)


def try_decode(path: str) -> tuple[NDArray[np.uint8] | None, str]:
    """Decode one file, which may be remote; return the image and "", or None and the reason why it cannot be used."""
    name = format_name(path if is_remote(path) else str(Path(path)))
    try:
        return decode_bytes(read_content(path, name), name), ""
    except DataError as error:
        return None, error.lines[0].removeprefix(f"{name}: ")


def read_content(path: str, name: str) -> bytes:
    """Read a file, which may be remote, within the size limit of images; raise the errors of `read_bytes`."""
    if not is_remote(path):
        return read_bytes(locate_image(Path(path)), name)
    try:
        data = read_remote(path)
    except (OSError, ValueError) as error:
        raise _explain_unreadable(error, name) from error
    _check_bytes(len(data), name)
    return data


def read_bytes(file: Path, name: str) -> bytes:
    """Read a file within the size limit of images; raise DataError, starting with `name`, for any other."""
    try:
        if (size := measure_size(file)) is None:  # reading a pipe would block, a device may never end
            raise DataError(f"{name}: not a regular file.")
        _check_bytes(size, name)
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise _explain_unreadable(error, name) from error


def find_limits(kind: str = "") -> tuple[int, int]:
    """Return the most bytes and pixels of an image of a format, "" for an unknown one."""
    return _MAX_BYTES_BY_FORMAT.get(kind, MAX_IMAGE_BYTES), _MAX_PIXELS_BY_FORMAT.get(kind, MAX_IMAGE_PIXELS)


def detect_formats(files: Iterable[Path]) -> list[str]:
    """Return the format of each file from its first bytes; "" if unknown (decoding reports such files)."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(_detect_file_format, files))


def decode_bytes(data: bytes, name: str, ground: str = "white") -> NDArray[np.uint8]:
    """Decode the content of a file into (H, W, 3) uint8 RGB; the format is detected from the content.

    EXIF orientation is applied, transparent images are composited on a plain `ground`, animations yield their first
    frame, colour profiles are ignored, and 16-bit samples keep their upper 8 bits. Raise DataError, starting with
    `name`, if the content cannot be decoded.
    """
    kind = detect_format(data, name)
    _check_bytes(len(data), name, kind)
    try:
        opened = file_structure.check_structure(kind, data)
        # JPEG too: OpenCV returns the same pixels 1.1 to 1.7 times as fast, but its libjpeg writes to stderr.
        with Image.open(io.BytesIO(opened), formats=[kind]) as image:
            _check_size(image.size, name, kind)
            image.load()
            if kind == "PNG" and _may_lack_rows(image) and file_structure.is_png_truncated(data):
                raise ValueError("it has fewer pixels than its header states")
            if (kind == "WEBP" or opened is not data) and _has_spare_zeros(kind, opened):
                raise ValueError(file_structure.ENDS_IN_ZEROS)
            _turn_upright(image)
            return np.array(_to_rgb(image, kind, data, ground))
    except (DataError, MemoryError):  # a lack of memory is not the file's fault
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: more than {MAX_IMAGE_PIXELS // 10**6} million pixels.") from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{name}: {kind} cannot be decoded: its header is broken, truncated or not supported."
        ) from error
    except Exception as error:  # Pillow's readers raise almost any exception on broken files
        if "MAX_TEXT" in str(error):  # a limit of Pillow's on the texts of a PNG
            return decode_bytes(file_structure.drop_png_texts(data), name, ground)
        reason = format_name(str(error).rstrip(".")) or type(error).__name__
        raise DataError(f"{name}: {kind} cannot be decoded: {reason}.") from error


def detect_format(data: bytes, name: str = "") -> str:
    """Return the format, a key of FORMATS, from the first KiB; raise DataError for any other format."""
    if not data:
        raise DataError(f"{name}: empty file.")
    start = data[:1024]
    kind = next((kind for kind, pattern in _PATTERNS.items() if pattern.match(start)), None)
    if kind not in FORMATS:
        problem = f"{kind} is not supported" if kind else "not a known image format"
        problem += ": convert it to JPEG or PNG, as with heif-convert" * (kind == "HEIC")
        raise DataError(f"{name}: {problem}.", f"Expected {', '.join(FORMATS)}.")
    return kind


def _detect_file_format(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return detect_format(stream.read(1024))
    except (OSError, DataError):
        return ""


def _explain_unreadable(error: Exception, name: str) -> DataError:
    # the text of a remote error names the file again
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else " ".join(str(error).split())
    return DataError(f"{name}: cannot be read: {reason}.")


def _check_bytes(size: int, name: str, kind: str = "") -> None:
    most, _ = find_limits(kind)
    if size > most:
        raise DataError(f"{name}: larger than {most // 2**20} MiB.")


def _check_size(size: tuple[int, int], name: str, kind: str) -> None:
    width, height = size
    _, most = find_limits(kind)
    if width * height == 0:
        raise DataError(f"{name}: no pixels ({width} x {height}).")
    if width * height > most:
        raise DataError(f"{name}: more than {most // 10**6} million pixels ({width} x {height}).")


def _may_lack_rows(image: Image.Image) -> bool:
    """Return whether the last row is blank, as unwritten rows are; in interlaced images any row may be unwritten."""
    last = image.crop((0, image.height - 1, image.width, image.height))
    return bool(image.info.get("interlace")) or not any(last.tobytes())


def _has_spare_zeros(kind: str, data: bytes) -> bool:
    """Return whether an image can also be decoded without the last zeros of its pixels: these are not its own."""
    try:
        with Image.open(io.BytesIO(file_structure.shorten(kind, data)), formats=[kind]) as image:
            image.load()
    except Exception:  # of several types
        return False
    return True


def _to_rgb(image: Image.Image, kind: str, data: bytes, ground: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_16_bit_grey(image)
    if image.mode in ("I", "F"):
        raise ValueError("32-bit and float samples have no defined white level")
    if kind == "PNG":
        _scale_transparent_colour(image, depth=data[24])
    if image.has_transparency_data:
        plain = Image.new("RGBA", image.size, ground)
        return Image.alpha_composite(plain, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit_grey(image: Image.Image) -> Image.Image:
    """Scale grey samples of 12 or 16 bits, which Pillow's own conversion would clip at 255."""
    values = np.asarray(image).astype(np.uint16)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        values <<= 16 - image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0]
        if image.tag_v2.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow handles at 8 bits only
            values = ~values
    grey = (values >> 8).astype(np.uint8)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


def _scale_transparent_colour(image: Image.Image, depth: int) -> None:
    """Scale the transparent colour of a PNG to the 8 bits of the decoded samples, which Pillow does not do."""
    colour = image.info.get("transparency")
    if depth == 16 and isinstance(colour, tuple):
        image.info["transparency"] = tuple(sample >> 8 for sample in colour)
    elif depth in (2, 4) and image.mode == "L" and isinstance(colour, int):
        image.info["transparency"] = colour * 255 // (2**depth - 1)


def _turn_upright(image: Image.Image) -> None:
    """Turn a loaded image as its EXIF states, unless that is broken or too large. Pillow turns TIFFs on loading."""
    texts = (image.info.get(key, "") for key in ("exif", "Raw profile type exif"))
    if all(len(text) <= 2 * file_structure.MAX_EXIF_BYTES for text in texts):
        with suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
