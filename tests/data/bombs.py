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

from tests.data.image_writers import bmp, chunk, exif, gif, png, riff, segment, tiff
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
    """Return an AVIF that claims 64 x 64 pixels and contains 256 million."""
    data = _saved(np.full((16000, 16000), 9, np.uint8), "AVIF", speed=10, quality=10)
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


def _blown(pixels: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    return pixels.repeat(times, 0).repeat(times, 1)


def _frames(count: int) -> bytes:
    """Return a WebP of very many frames of one pixel."""
    one = _saved(RGB[:1, :1], "WEBP", lossless=True)[12:]
    content = bytes(16) + one
    frame = b"ANMF" + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    first = riff((b"VP8X", b"\2\0\0\0" + bytes(6)), (b"ANIM", bytes(6)))
    body = first[8:] + frame * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


QUICK = {"lossless": True, "method": 0, "quality": 0}
FINE = {"speed": 10, "quality": 98, "subsampling": "4:4:4"}
RGBA_16 = struct.pack("<4H", 1000, 2000, 3000, 40000)
BOMBS: dict[str, Made] = {
    "largest rgba.png": lambda: (_saved(_noise(*SIDES, 4), "PNG", compress_level=1), SIDES),
    "largest flat rgba of 16 bits.png": lambda: (_flat(16, 6, 4), SIDES),
    "largest flat grey of 16 bits.png": lambda: (_flat(16, 0, 1), SIDES),
    "largest flat of 1 bit.png": lambda: (_flat(1, 0, 1), SIDES),
    "90000 chunks of pixels.png": lambda: (png(_noise(1000, 1000, 3), 8, 2, pieces=90_000), (1000, 1000)),
    "10 million chunks.png": lambda: (
        png(RGB, 8, 2, [(b"aaAa", b"")])[:-12] * 1 + chunk(b"aaAa", b"") * 10**7,
        "chunks",
    ),
    "60 MiB of text.png": lambda: (png(RGB, 8, 2, [(b"tEXt", b"a\0" + b"b" * 60 * 2**20)]), RGB.shape[:2]),
    "900 texts that unpack.png": lambda: (
        png(RGB, 8, 2, [(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 99)))] * 900),
        "text chunks",
    ),
    "largest.jpg": lambda: (_saved(_noise(*SIDES, 3), "JPEG", quality=100, subsampling=0), SIDES),
    "largest of 20 scans.jpg": lambda: (scan_bomb(SIDES[1], SIDES[0], 19), SIDES),
    "largest of 500 scans.jpg": lambda: (scan_bomb(SIDES[1], SIDES[0], 500), "too many scans"),
    "1 MP of 900 scans.jpg": lambda: (scan_bomb(1000, 1000, 900), (1000, 1000)),
    "largest turned.jpg": lambda: (_jpeg_turned(), SIDES[::-1]),
    "200 MiB of markers.jpg": lambda: (_jpeg_with(segment(0xE5, b"") * 50 * 2**20), "too many segments"),
    "200 MiB of padding.jpg": lambda: (_jpeg_with(b"\xff" * 200 * 2**20), "junk between"),
    "200 MiB of exif.jpg": lambda: (_jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(65000)) * 3200), "EXIF is too large"),
    "2 MiB of fractions in exif.jpg": lambda: (_jpeg_fractions(), RGB.shape[:2]),
    "largest.gif": lambda: (_saved(_noise(*SIDES, 1)[..., 0], "GIF"), SIDES),
    "200 MiB of comments.gif": lambda: (
        gif((40, 24), [((0, 0), INDEX, None)], PALETTE, before=b"!\xfe\1a\0" * 40 * 2**20),
        "blocks before",
    ),
    "200 MiB of zeros.gif": lambda: (
        gif((40, 24), [((0, 0), INDEX, None)], PALETTE, before=bytes(200 * 2**20)),
        "blocks before",
    ),
    "largest.bmp": lambda: (bmp(7071, 7071, 32, _noise(*SIDES, 4).tobytes()), SIDES),
    "4 MiB of runs.bmp": lambda: (
        bmp(1400, 1400, 8, (b"\1\7" * 1400 + b"\0\0") * 1400, compression=1, palette=bytes(1024)),
        (1400, 1400),
    ),
    "4 MiB of leaps.bmp": lambda: (_runs(7071, b"\0\2\1\1" * 10**6), SIDES),
    "200 MiB of runs.bmp": lambda: (_runs(7071, b"\1\7" * 10**8), "run-length data"),
    "largest rgba.tif": lambda: (_tiff(1, [_noise(*SIDES, 4).tobytes()], 4, 8, SIDES, SIDES[0]), SIDES),
    "largest rgba of 16 bits, a bomb.tif": lambda: (
        _tiff(8, [zlib.compress(RGBA_16 * (SIDES[0] * SIDES[1]))], 4, 16, SIDES, SIDES[0]),
        SIDES,
    ),
    "largest by lzw.tif": lambda: (_saved(_noise(7000, 7000, 4), "TIFF", compression="tiff_lzw"), (7000, 7000)),
    "largest by lzma.tif": lambda: (_saved(_noise(3000, 3000, 3), "TIFF", compression="lzma"), (3000, 3000)),
    "largest by zstd.tif": lambda: (_saved(_noise(*SIDES, 4), "TIFF", compression="zstd"), SIDES),
    "120000 strips.tif": lambda: (_tiff(1, [bytes(250)] * 120_000, 1, 8, (120_000, 250), 1), (120_000, 250)),
    "4 million strips.tif": lambda: (_tiff(1, [b""] * 4 * 10**6, 1, 8, (4 * 10**6, 10), 1), "numbers"),
    "largest rgba.webp": lambda: (
        _saved(_noise(5000, 5000, 4), "WEBP", lossless=True, method=0, quality=0),
        (5000, 5000),
    ),
    "too many pixels.webp": lambda: (
        _saved(_noise(10, 10, 3).repeat(600, 0).repeat(600, 1), "WEBP", lossless=True, method=0),
        "25 million",
    ),
    "2 million frames.webp": lambda: (_frames(2_000_000), (1, 1)),
    "largest lossy.webp": lambda: (
        _saved(_noise(2000, 2000, 4).repeat(2, 0).repeat(2, 1), "WEBP", method=0, quality=75),
        (4000, 4000),
    ),
    "largest smooth.avif": lambda: (
        _saved(np.tile(_noise(50, 50, 4), (100, 100, 1)), "AVIF", speed=10, quality=60),
        (5000, 5000),
    ),
    "largest by bytes.avif": lambda: (
        _saved(_noise(2500, 2500, 4), "AVIF", speed=10, quality=98, subsampling="4:4:4"),
        (2500, 2500),
    ),
    "too many bytes.avif": lambda: (_saved(RGB, "AVIF") + bytes(32 * 2**20), "larger than 32 MiB"),
    "256 million behind 64x64.avif": lambda: (_lying_avif(), (64, 64)),
}


def _jpeg_turned() -> bytes:
    data = _saved(np.tile(_noise(101, 101, 3), (71, 71, 1))[: SIDES[0], : SIDES[1]], "JPEG")
    turned = segment(0xE1, b"Exif\0\0" + exif((0x0112, 3, 1, b"\6\0\0\0")))
    return data[:2] + turned + data[2:]


def _jpeg_fractions() -> bytes:
    """Return a JPEG whose EXIF states its density in a quarter of a million fractions."""
    head = exif((0x011A, 5, 240_000, struct.pack("<I", 26)), (0x0128, 3, 1, b"\2\0\0\0"))
    whole = b"Exif\0\0" + head + bytes(240_000 * 8)
    pieces = [whole[:60000], *(b"Exif\0\0" + whole[i : i + 60000] for i in range(60000, len(whole), 60000))]
    plain = encoded()
    return plain[:2] + b"".join(segment(0xE1, piece) for piece in pieces) + plain[2:]
