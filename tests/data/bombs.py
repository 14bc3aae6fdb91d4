"""Large image files: the costliest that are allowed, and those that are refused for what they would cost."""

import struct
import zlib
from collections.abc import Callable

import numpy as np

from tests.builders.pixels import encode
from tests.data.image_writers import bmp, chunk, exif, png, segment, tiff
from tests.data.odd_images import RGB, encoded, scan_bomb

Made = Callable[[], tuple[bytes, tuple[int, int] | str]]  # content; height and width, or a part of the reason
SIDES = 7071, 7071  # 50 million pixels


def _noise(height, width, channels):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _flat(depth, colour, channels):
    """Return a PNG of 50 million equal samples; a zip bomb, in effect."""
    height, width = SIDES
    squeeze = zlib.compressobj(9)
    row = b"\0" + b"\x55" * -(-width * channels * depth // 8)
    packed = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def _lying_avif():
    """Return an AVIF that claims 64 x 64 pixels and contains 64 million."""
    data = encode(np.full((8000, 8000), 9, np.uint8), "AVIF", speed=10, quality=10)
    size = data.index(b"ispe") + 8
    return data[:size] + struct.pack(">II", 64, 64) + data[size + 8 :]


def _tiff(compression, strips, channels, bits, sides, rows):
    tags = {
        256: (4, [sides[1]]),
        257: (4, [sides[0]]),
        258: (3, [bits] * channels),
        259: (3, [compression]),
        262: (3, [2 if channels > 2 else 1]),
        277: (3, [channels]),
        278: (4, [rows]),
    }
    return tiff(tags | ({338: (3, [2])} if channels == 4 else {}), strips)


RGBA_16 = struct.pack("<4H", 1000, 2000, 3000, 40000)
BOMBS = {
    "largest flat rgba of 16 bits.png": lambda: (_flat(16, 6, 4), SIDES),
    "900 texts that unpack.png": lambda: (
        png(RGB, 8, 2, [(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 99)))] * 900),
        "text chunks",
    ),
    "1 MP of 900 scans.jpg": lambda: (scan_bomb(1000, 1000, 900), (1000, 1000)),
    "2 MiB of fractions in exif.jpg": lambda: (_jpeg_fractions(), RGB.shape[:2]),
    "4 MiB of leaps.bmp": lambda: (bmp(7071, 7071, 8, b"\0\2\1\1" * 10**6, compression=1, palette=bytes(1024)), SIDES),
    "largest rgba of 16 bits, a bomb.tif": lambda: (
        _tiff(8, [zlib.compress(RGBA_16 * (SIDES[0] * SIDES[1]))], 4, 16, SIDES, SIDES[0]),
        SIDES,
    ),
    "largest rgba.webp": lambda: (
        encode(_noise(5000, 5000, 4), "WEBP", lossless=True, method=0, quality=0),
        (5000, 5000),
    ),
    "too many pixels.webp": lambda: (
        encode(_noise(10, 10, 3).repeat(600, 0).repeat(600, 1), "WEBP", lossless=True, method=0),
        "25 million",
    ),
    "too many bytes.avif": lambda: (encode(RGB, "AVIF") + bytes(32 * 2**20), "larger than 32 MiB"),
    "64 million behind 64x64.avif": lambda: (_lying_avif(), (64, 64)),
}


def _jpeg_fractions():
    """Return a JPEG whose EXIF states its density in a quarter of a million fractions."""
    head = exif((0x011A, 5, 240_000, struct.pack("<I", 26)), (0x0128, 3, 1, b"\2\0\0\0"))
    whole = b"Exif\0\0" + head + bytes(240_000 * 8)
    pieces = [whole[:60000], *(b"Exif\0\0" + whole[i : i + 60000] for i in range(60000, len(whole), 60000))]
    plain = encoded()
    return plain[:2] + b"".join(segment(0xE1, piece) for piece in pieces) + plain[2:]
