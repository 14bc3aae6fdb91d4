"""Large image files: the costliest that are allowed, and those that are refused for what they would cost."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.data.image_writers import bmp, chunk, exif, gif, png, segment, tiff
from tests.data.odd_images import INDEX, PALETTE, RGB, encoded, scan_bomb

Made = Callable[[], tuple[bytes, tuple[int, int] | str]]  # content; height and width, or a part of the reason
SIDES = 7071, 7071  # 50 million pixels


def _noise(height: int, width: int, channels: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _saved(pixels: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def _flat(depth: int, colour: int, channels: int) -> bytes:
    """Return a PNG of 50 million equal samples; a zip bomb, in effect."""
    height, width = SIDES
    squeeze = zlib.compressobj(9)
    row = b"\0" + b"\x55" * -(-width * channels * depth // 8)
    packed = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def _lying_avif() -> bytes:
    """Return an AVIF that claims 64 x 64 pixels and contains 64 million."""
    data = _saved(np.full((8000, 8000), 9, np.uint8), "AVIF", speed=10, quality=10)
    size = data.index(b"ispe") + 8
    return data[:size] + struct.pack(">II", 64, 64) + data[size + 8 :]


def _jpeg_with(extra: bytes) -> bytes:
    plain = encoded()
    return plain[:20] + extra + plain[20:]


def _tiff(compression: int, strips: list[bytes], channels: int, bits: int, sides: tuple[int, int], rows: int) -> bytes:
    tags: dict[int, tuple[int, Any]] = {
        256: (4, [sides[1]]),
        257: (4, [sides[0]]),
        258: (3, [bits] * channels),
        259: (3, [compression]),
        262: (3, [2 if channels > 2 else 1]),
        277: (3, [channels]),
        278: (4, [rows]),
    }
    return tiff(tags | ({338: (3, [2])} if channels == 4 else {}), strips)


def _runs(side: int, runs: bytes) -> bytes:
    return bmp(side, side, 8, runs, compression=1, palette=bytes(1024))


RGBA_16 = struct.pack("<4H", 1000, 2000, 3000, 40000)
BOMBS: dict[str, Made] = {
    "largest flat rgba of 16 bits.png": lambda: (_flat(16, 6, 4), SIDES),
    "900 texts that unpack.png": lambda: (
        png(RGB, 8, 2, [(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 99)))] * 900),
        "text chunks",
    ),
    "largest of 500 scans.jpg": lambda: (scan_bomb(SIDES[1], SIDES[0], 500), "too many scans"),
    "1 MP of 900 scans.jpg": lambda: (scan_bomb(1000, 1000, 900), (1000, 1000)),
    "200 MiB of exif.jpg": lambda: (_jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(65000)) * 3200), "EXIF is too large"),
    "2 MiB of fractions in exif.jpg": lambda: (_jpeg_fractions(), RGB.shape[:2]),
    "200 MiB of zeros.gif": lambda: (
        gif((40, 24), [((0, 0), INDEX, None)], PALETTE, before=bytes(200 * 2**20)),
        "blocks before",
    ),
    "4 MiB of leaps.bmp": lambda: (_runs(7071, b"\0\2\1\1" * 10**6), SIDES),
    "200 MiB of runs.bmp": lambda: (_runs(7071, b"\1\7" * 10**8), "run-length data"),
    "largest rgba of 16 bits, a bomb.tif": lambda: (
        _tiff(8, [zlib.compress(RGBA_16 * (SIDES[0] * SIDES[1]))], 4, 16, SIDES, SIDES[0]),
        SIDES,
    ),
    "4 million strips.tif": lambda: (_tiff(1, [b""] * 4 * 10**6, 1, 8, (4 * 10**6, 10), 1), "numbers"),
    "largest rgba.webp": lambda: (
        _saved(_noise(5000, 5000, 4), "WEBP", lossless=True, method=0, quality=0),
        (5000, 5000),
    ),
    "too many pixels.webp": lambda: (
        _saved(_noise(10, 10, 3).repeat(600, 0).repeat(600, 1), "WEBP", lossless=True, method=0),
        "25 million",
    ),
    "too many bytes.avif": lambda: (_saved(RGB, "AVIF") + bytes(32 * 2**20), "larger than 32 MiB"),
    "64 million behind 64x64.avif": lambda: (_lying_avif(), (64, 64)),
}


def _jpeg_fractions() -> bytes:
    """Return a JPEG whose EXIF states its density in a quarter of a million fractions."""
    head = exif((0x011A, 5, 240_000, struct.pack("<I", 26)), (0x0128, 3, 1, b"\2\0\0\0"))
    whole = b"Exif\0\0" + head + bytes(240_000 * 8)
    pieces = [whole[:60000], *(b"Exif\0\0" + whole[i : i + 60000] for i in range(60000, len(whole), 60000))]
    plain = encoded()
    return plain[:2] + b"".join(segment(0xE1, piece) for piece in pieces) + plain[2:]
