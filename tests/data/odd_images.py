"""A corpus of odd and hostile image files, each with its pixels or the reason why it is refused.

Pixels are known by construction (image_writers), or come from OpenCV where a format is lossy: never from our loader.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL import __version__ as pillow_version

from tests.data.image_writers import (
    bmp,
    chunk,
    exif,
    gif,
    png,
    riff,
    rows,
    segment,
    tiff,
    tiff_of,
)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Odd:
    """Odd file with its expected pixels, each within `tolerance`, or a part of the reason for its refusal."""

    name: str
    data: bytes
    pixels: Pixels | None = None
    reason: str = ""
    tolerance: int = 0


PILLOW = int(pillow_version.partition(".")[0])
COARSE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
RGB: Pixels = np.asarray(cv2.resize(COARSE, (40, 24), interpolation=cv2.INTER_CUBIC), np.uint8)
GREY = np.ascontiguousarray(RGB[..., 0])
ALPHA = np.ascontiguousarray(RGB[..., 2])
RGBA = np.dstack([RGB, ALPHA])
PALETTE = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
INDEX = np.random.default_rng(2).integers(0, 256, (24, 40), dtype=np.uint8)
BITS = (GREY > 120).astype(np.uint8)


def grey(samples: NDArray[np.integer]) -> Pixels:
    return np.dstack([samples.astype(np.uint8)] * 3)


def on_white(colour: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[..., None] / 255
    return np.round(colour * share + 255 * (1 - share)).astype(np.uint8)


def save(image: Pixels | Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def opencv(data: bytes) -> Pixels:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flags), np.uint8)


def encoded(*options: int, pixels: Pixels = RGB) -> bytes:
    """Write a JPEG with OpenCV."""
    bgr = np.ascontiguousarray(pixels[..., ::-1]) if pixels.ndim == 3 else pixels
    return bytes(cv2.imencode(".jpg", bgr, list(options))[1].tobytes())


@cache
def corpus() -> dict[str, Odd]:
    """Return the whole corpus by kind; no name of a kind or of a file occurs twice."""
    found: dict[str, Odd] = {}
    for make in (_png, _apng, _jpeg, _jpeg_structure, _gif, _bmp, _tiff, _tiff_wide, _webp, _avif, _turned, _foreign):
        for name, (data, outcome, *tolerance) in make().items():
            assert name not in found
            given = {"reason": outcome} if isinstance(outcome, str) else {"pixels": outcome}
            found[name] = Odd(name, data, **given, tolerance=tolerance[0] if tolerance else 0)  # type: ignore[arg-type]
    for name, odd in _damaged(found).items():
        found[name] = odd
    return found


Cases = dict[str, tuple[Any, ...]]


def _png() -> Cases:
    cases: Cases = {}
    for depth in (1, 2, 4, 8):
        samples = GREY >> 8 - depth
        cases[f"grey of {depth} bits.png"] = png(samples[..., None], depth, 0), grey(samples * (255 // (2**depth - 1)))
        few = INDEX >> 8 - depth
        table = (b"PLTE", PALETTE[: 2**depth].tobytes())
        cases[f"palette of {depth} bits.png"] = png(few[..., None], depth, 3, [table]), PALETTE[few]
        clear = (b"tRNS", struct.pack(">H", 1))
        expected = grey(np.where(samples == 1, 255, samples * (255 // (2**depth - 1))))
        cases[f"grey of {depth} bits with a clear shade.png"] = png(samples[..., None], depth, 0, [clear]), expected
    table, many = (b"PLTE", PALETTE.tobytes()), (b"tRNS", bytes([0, 128, 255]))
    shares = np.full(256, 255, np.uint8)
    shares[:3] = 0, 128, 255
    laid = on_white(PALETTE[INDEX], shares[INDEX])
    cases["palette with half clear entries.png"] = png(INDEX[..., None], 8, 3, [table, many]), laid, 1
    wide = RGB.astype(np.uint16) * 256 + 77
    cases["rgb of 16 bits.png"] = png(wide, 16, 2), RGB
    cases["rgba of 16 bits.png"] = png(RGBA.astype(np.uint16) * 257, 16, 6), on_white(RGB, ALPHA), 1
    cases["grey of 16 bits.png"] = png(wide[..., :1], 16, 0), grey(GREY)
    cases["grey alpha of 16 bits.png"] = (
        png(np.dstack([GREY, ALPHA]).astype(np.uint16) * 257, 16, 4),
        on_white(grey(GREY), ALPHA),
        1,
    )
    cases["grey alpha.png"] = png(np.dstack([GREY, ALPHA]), 8, 4), on_white(grey(GREY), ALPHA), 1
    cases["rgba.png"] = png(RGBA, 8, 6), on_white(RGB, ALPHA), 1
    cases["all clear.png"] = png(np.dstack([RGB, 0 * ALPHA]), 8, 6), 0 * RGB + 255
    clear = (b"tRNS", struct.pack(">3H", *RGB[3, 5]))
    expected = np.where((RGB[3, 5] == RGB).all(2, keepdims=True), 255, RGB)
    cases["rgb with a clear colour.png"] = png(RGB, 8, 2, [clear]), expected
    cases["interlaced rgb.png"] = png(RGB, 8, 2, interlaced=True), RGB
    cases["interlaced grey of 1 bit.png"] = png(BITS[..., None], 1, 0, interlaced=True), grey(BITS * 255)
    cases["interlaced 1x1.png"] = png(RGB[:1, :1], 8, 2, interlaced=True), RGB[:1, :1]
    cases["1x1.png"] = png(RGB[:1, :1], 8, 2), RGB[:1, :1]
    tall = np.tile(GREY[:, :1], (2700, 1))
    cases["1x64800.png"] = png(tall[..., None], 8, 0), grey(tall)
    cases["64800x1.png"] = png(tall.reshape(1, -1, 1), 8, 0), grey(tall.reshape(1, -1))
    cases["pixels in 900 pieces.png"] = png(RGB, 8, 2, pieces=900), RGB
    odd = [(b"gAMA", struct.pack(">I", 10)), (b"sRGB", b"\0"), (b"tIME", b"x"), (b"aaAa", b"private")]
    cases["chunks of no concern.png"] = png(RGB, 8, 2, odd), RGB
    cases["comments after the pixels.png"] = png(RGB, 8, 2, [], [(b"tEXt", b"Comment\0" + b"x" * 9000)]), RGB
    profile = (b"iCCP", b"x\0\0" + zlib.compress(b"no profile at all"))
    cases["profile that is none.png"] = png(RGB, 8, 2, [profile]), RGB
    cases["two profiles.png"] = png(RGB, 8, 2, [profile, profile]), "several colour profiles"
    cases["exif that is none.png"] = png(RGB, 8, 2, [(b"eXIf", b"\xff" * 99)]), RGB
    bomb = (b"zTXt", b"a\0\0" + zlib.compress(bytes(2 * 2**20)))
    cases["text that unpacks to 2 MiB.png"] = png(RGB, 8, 2, [bomb]), "too large"
    cases["2000 comments.png"] = png(RGB, 8, 2, [(b"tEXt", b"a\0b")] * 2000), "chunks besides its pixels"
    cases["palette missing.png"] = png(INDEX[..., None], 8, 3), "PNG cannot be decoded"
    header = struct.pack(">IIBBBBB", 40, 24, 8, 2, 0, 0, 0)
    cases["no pixels.png"] = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""), "PNG cannot"
    for name, size in {"0x24": (0, 24), "40x0": (40, 0), "of 2 billion a side": (2**31 - 1, 2**31 - 1)}.items():
        forged = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
        start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", forged)
        cases[f"claims {name}.png"] = start + png(RGB, 8, 2)[33:], "pixels" if "billion" in name else "PNG cannot"
    for name, place in {"depth 3": 8, "colour 5": 9, "interlace 7": 12}.items():
        forged = bytearray(header)
        forged[place] = int(name.split()[1])
        start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(forged))
        cases[f"claims {name}.png"] = start + png(RGB, 8, 2)[33:], "PNG cannot be decoded"
    flipped = bytearray(png(RGB, 8, 2, [(b"tEXt", b"a\0bcd")]))
    flipped[flipped.index(b"bcd")] ^= 1
    cases["bit flipped in a comment.png"] = bytes(flipped), "is broken"
    flipped = bytearray(png(RGB, 8, 2))
    flipped[-20] ^= 1
    cases["bit flipped in the pixels.png"] = bytes(flipped), "is broken"
    short = zlib.compress(b"\0" + RGB[0].tobytes())
    body = chunk(b"IHDR", header) + chunk(b"IDAT", short) + chunk(b"IEND", b"")
    cases["fewer rows than it claims.png"] = b"\x89PNG\r\n\x1a\n" + body, "fewer pixels"
    black = png(0 * RGB, 8, 2)
    cases["all black.png"] = black, 0 * RGB
    cases["all black, interlaced.png"] = png(0 * RGB, 8, 2, interlaced=True), 0 * RGB
    lacking = b"".join(b"\0" + bytes(RGB[y::8, x::8].nbytes // len(RGB[y::8])) for x, y in ((0, 0),) for _ in RGB[::8])
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header[:-1] + b"\1")
    one = start + chunk(b"IDAT", zlib.compress(lacking)) + chunk(b"IEND", b"")
    cases["one pass of seven.png"] = one, "fewer pixels"
    return cases


def _apng() -> Cases:
    animation = (b"acTL", struct.pack(">II", 2, 0))
    control = struct.pack(">IIIIIHHBB", 0, 40, 24, 0, 0, 1, 10, 0, 0)
    second = struct.pack(">IIIIIHHBB", 1, 40, 24, 0, 0, 1, 10, 0, 0)
    other = struct.pack(">I", 2) + zlib.compress(b"".join(b"\0" + bytes(120) for _ in range(24)))
    frames = [(b"fcTL", second), (b"fdAT", other)]
    first = png(RGB, 8, 2, [animation, (b"fcTL", control)], frames)
    hidden = struct.pack(">IIIIIHHBB", 0, 40, 24, 0, 0, 1, 10, 0, 0)
    apart = png(
        RGB,
        8,
        2,
        [(b"acTL", struct.pack(">II", 1, 0))],
        [(b"fcTL", hidden), (b"fdAT", struct.pack(">I", 1) + other[4:])],
    )
    lies = png(RGB, 8, 2, [(b"acTL", struct.pack(">II", 2**31 - 1, 0))])
    return {
        "animated.png": (first, RGB),
        "animated, its still apart.png": (apart, RGB),
        "claims 2 billion frames.png": (lies, RGB),
    }


def _jpeg() -> Cases:
    cases: Cases = {}
    kinds = {
        "4-4-4": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
        "4-2-2": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422),
        "4-2-0": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
        "4-4-0": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440),
        "4-1-1": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411),
        "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "restart markers": (cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        "optimised": (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
        "quality 1": (cv2.IMWRITE_JPEG_QUALITY, 1),
    }
    for name, options in kinds.items():
        data = encoded(*options)
        cases[f"{name}.jpg"] = data, opencv(data), 1
    for name, data in {
        "grey": encoded(pixels=GREY),
        "grey progressive": encoded(cv2.IMWRITE_JPEG_PROGRESSIVE, 1, pixels=GREY),
        "1x1": encoded(pixels=RGB[:1, :1]),
        "1x65500": encoded(pixels=np.tile(RGB[:, :1], (2730, 1, 1))[:65500]),
        "65500x1": encoded(pixels=np.tile(RGB[:1], (1, 1638, 1))[:, :65500]),
        "rgb kept": save(RGB, "JPEG", keep_rgb=True),
    }.items():
        cases[f"{name}.jpg"] = data, opencv(data), 1
    cmyk = save(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95)
    cases["cmyk.jpg"] = cmyk, opencv(cmyk), 3
    # the same planes named YCCK: OpenCV turns them to CMYK as libjpeg does
    ycck = bytearray(cmyk)
    ycck[ycck.index(b"Adobe") + 11] = 2
    cases["ycck.jpg"] = bytes(ycck), opencv(bytes(ycck)), 3
    arithmetic = save(GREY, "JPEG").replace(b"\xff\xc0", b"\xff\xc9")
    start = arithmetic.index(b"\xff\xda")
    nothing = arithmetic[: start + 10] + bytes(8) + b"\xff\xd9"
    cases["arithmetic.jpg"] = nothing, opencv(nothing), 1
    cases["of 12 bits.jpg"] = _forged(save(GREY, "JPEG"), b"\xff\xc0", 4, b"\x0c"), "not supported"
    cases["lossless kind.jpg"] = save(GREY, "JPEG").replace(b"\xff\xc0", b"\xff\xc3"), "JPEG cannot be decoded"
    cases["hierarchical kind.jpg"] = save(GREY, "JPEG").replace(b"\xff\xc0", b"\xff\xc5"), "JPEG cannot be decoded"
    for name, sides in {"0x24": (24, 0), "40x0": (0, 40), "65535x65535": (65535, 65535)}.items():
        forged = _forged(encoded(), b"\xff\xc0", 5, struct.pack(">HH", *sides))
        cases[f"claims {name}.jpg"] = forged, "million pixels" if 0 not in sides else "JPEG cannot be decoded"
    cases["two layers.jpg"] = _forged(encoded(), b"\xff\xc0", 9, b"\x02"), "JPEG cannot be decoded"
    cases["samples of no width.jpg"] = _forged(encoded(), b"\xff\xc0", 11, b"\x00"), "JPEG cannot be decoded"
    return cases


def _forged(data: bytes, after: bytes, skip: int, new: bytes) -> bytes:
    place = data.index(after) + skip
    return data[:place] + new + data[place + len(new) :]


def _jpeg_structure() -> Cases:
    plain = encoded()
    expected = opencv(plain)
    other = encoded(pixels=np.ascontiguousarray(255 - RGB))
    jfif, rest = plain[:20], plain[20:]
    thumbnail = b"Exif\0\0" + exif((0x0112, 3, 1, b"\1\0\0\0"), following=26) + bytes(4) + other
    frames = io.BytesIO()
    Image.open(io.BytesIO(plain)).save(frames, "MPO", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    start = plain.index(b"\xff\xda")
    sized = {
        "trailing bytes": plain + b"more" * 999,
        "zeros at the end": plain + bytes(9999),
        "two concatenated": plain + other,
        "with a thumbnail": jfif + segment(0xE1, thumbnail) + rest,
        "html behind it": plain + b"<html><script>alert(1)</script></html>",
        "html in its comment": jfif + segment(0xFE, b"<html><script>alert(1)</script></html>") + rest,
        "an end in its comment": jfif + segment(0xFE, b"\xff\xd9\xff\xd9") + rest,
        "padded markers": jfif + b"\xff" * 99 + rest,
        "comment before its scan": plain[:start] + segment(0xFE, b"\xff\xda" * 99) + plain[start:],
        "exif of nothing": jfif + segment(0xE1, b"Exif\0\0") + rest,
        "exif that points at itself": jfif
        + segment(0xE1, b"Exif\0\0" + exif((0x8769, 4, 1, b"\x08\0\0\0"), following=8))
        + rest,
        "exif of 5000 tags": jfif
        + segment(0xE1, b"Exif\0\0" + exif(*[(n, 4, 1, b"abcd") for n in range(5000)]))
        + rest,
        "exif of 4 billion values": jfif + segment(0xE1, b"Exif\0\0" + exif((0x0112, 5, 2**32 - 1, bytes(4)))) + rest,
        "profile in pieces that lack": jfif + segment(0xE2, b"ICC_PROFILE\0\2\3" + bytes(99)) + rest,
        "xmp that is cut": jfif + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Ori") + rest,
        "several exifs": jfif + segment(0xE1, b"Exif\0\0" + bytes(60000)) * 20 + rest,
        "photoshop of minus size": jfif + segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff\xff\xff") + rest,
        "images of a camera": frames.getvalue(),
    }
    cases: Cases = {f"{name}.jpg": (data, expected, 1) for name, data in sized.items()}
    cases["images of a camera.jpg"] = frames.getvalue(), opencv(frames.getvalue()), 1
    scan = scan_bomb(64, 64, 300)
    cases["300 scans of 64x64.jpg"] = scan, opencv(scan), 1
    cases["300 scans of 8000x6000.jpg"] = scan_bomb(8000, 6000, 300), "too many scans"
    cases["60 MiB of exif.jpg"] = jfif + segment(0xE1, b"Exif\0\0" + bytes(65000)) * 1000 + rest, "EXIF is too large"
    cases["20000 comments.jpg"] = jfif + segment(0xFE, b"") * 20000 + rest, "too many segments"
    cases["junk between segments.jpg"] = jfif + bytes(20000) + rest, "junk between"
    cases["end never written.jpg"] = plain[:-2] + bytes(2), "its end was never written"
    cases["tables alone.jpg"] = plain[:start] + b"\xff\xd9", "JPEG cannot be decoded"
    cases["start and end.jpg"] = b"\xff\xd8\xff\xd9", "JPEG cannot be decoded"
    return cases


def scan_bomb(width: int, height: int, scans: int) -> bytes:
    """Write a progressive grey JPEG of flat mid grey, whose refining scans say nothing over and over."""
    dc = segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\x00")  # one code: no difference
    ac = segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0")  # one code: the end of 2^14 blocks and more
    tables = segment(0xDB, b"\x00" + bytes([1] * 64)) + dc + ac
    frame = segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00")
    blocks = -(-width // 8) * -(-height // 8)
    first = segment(0xDA, b"\x01\x01\x00\x00\x00\x00") + bytes(-(-blocks // 8))
    runs = -(-blocks // 2**14)
    body = "".join("0" + "0" * 14 for _ in range(runs))
    band = (
        segment(0xDA, b"\x01\x01\x00\x01\x3f\x00")
        + int("1" + body.ljust(-(-len(body) // 8) * 8, "1"), 2).to_bytes(-(-len(body) // 8) + 1)[1:]
    )
    return b"\xff\xd8" + tables + frame + first + band * scans + b"\xff\xd9"


def _gif() -> Cases:
    size, whole = (40, 24), ((0, 0), INDEX, None)
    shown = PALETTE[INDEX]
    clear = np.where(INDEX[..., None] == 7, 255, shown)
    small = INDEX[:5, :7]
    placed = np.full_like(RGB, PALETTE[0])
    placed[3:8, 2:9] = PALETTE[small]
    holed = np.full_like(RGB, 255)
    holed[3:8, 2:9] = np.where(small[..., None] == small[0, 0], 255, PALETTE[small])
    comment = b"!\xfe" + b"\xff" + b"c" * 255
    few = gif(size, [((0, 0), INDEX[:9], None)], PALETTE)
    header = few.index(b"\0,\0\0\0\0") + 8
    few = few[:header] + struct.pack("<H", 24) + few[header + 2 :]
    return {
        "fewer rows than it claims.gif": (few, "GIF cannot be decoded"),
        "whole.gif": (gif(size, [whole], PALETTE), shown),
        "interlaced.gif": (gif(size, [whole], PALETTE, interlaced=True), shown),
        "clear index.gif": (gif(size, [((0, 0), INDEX, 7)], PALETTE), clear),
        "no palette.gif": (gif(size, [whole], None), grey(INDEX)),
        "frame with an offset.gif": (gif(size, [((2, 3), small, None)], PALETTE), placed),
        "frame with an offset and a clear index.gif": (gif(size, [((2, 3), small, int(small[0, 0]))], PALETTE), holed),
        "animated.gif": (gif(size, [whole, ((0, 0), 255 - INDEX, None)], PALETTE), shown),
        "animated, disposed of.gif": (gif(size, [whole, ((1, 1), small, 3)], PALETTE, disposal=2), shown),
        "animated, to the one before.gif": (gif(size, [whole, ((1, 1), small, 3)], PALETTE, disposal=3), shown),
        "1x1.gif": (gif((1, 1), [((0, 0), INDEX[:1, :1], None)], PALETTE), PALETTE[INDEX[:1, :1]]),
        "comment of 2 MiB.gif": (gif(size, [whole], PALETTE, before=b"!\xfe" + comment[2:] * 8192 + b"\0"), shown),
        "300000 comments.gif": (gif(size, [whole], PALETTE, before=b"!\xfe\1a\0" * 300000), "blocks before its first"),
        "zeros before its frame.gif": (gif(size, [whole], PALETTE, before=bytes(300000)), "blocks before its first"),
        "canvas of 65535x65535.gif": (gif((65535, 65535), [((0, 0), INDEX[:1, :1], None)], PALETTE), "million pixels"),
        "frame far out.gif": (gif(size, [((65000, 65000), small, None)], PALETTE), "million pixels"),
        "no frame.gif": (gif(size, [], PALETTE), "GIF cannot be decoded"),
        "canvas of 0x0.gif": (gif((0, 0), [], PALETTE), "GIF cannot be decoded"),
        "trailing zip.gif": (gif(size, [whole], PALETTE) + _zip(), shown),
    }


def _bmp() -> Cases:
    bgr = np.ascontiguousarray(RGB[..., ::-1])
    table = np.dstack([PALETTE[..., ::-1].reshape(1, 256, 3), np.zeros((1, 256, 1), np.uint8)]).tobytes()
    two = b"\x10\x20\x30\0\xf0\xe0\xd0\0"
    shades = np.array([[0x30, 0x20, 0x10], [0xD0, 0xE0, 0xF0]], np.uint8)
    four = INDEX >> 4
    nibbles = (four[:, ::2] << 4 | four[:, 1::2]).astype(np.uint8)
    fives = (RGB >> 3).astype(np.uint16)
    packed = fives[..., 0] << 10 | fives[..., 1] << 5 | fives[..., 2]
    stretched = np.round((RGB >> 3) * (255 / 31)).astype(np.uint8)
    runs = b"".join(b"".join(bytes([1, i]) for i in row) + b"\0\0" for row in INDEX[::-1].tolist()) + b"\0\1"
    absolute = b"".join(b"\0\x28" + row.tobytes() + b"\0\0" for row in INDEX[::-1]) + b"\0\1"
    core = b"BM" + struct.pack("<IHHI", 0, 0, 0, 26) + struct.pack("<IHHHH", 12, 40, 24, 1, 24) + rows(bgr)
    bgra = np.dstack([bgr, ALPHA])
    bgrx = np.dstack([bgr, 0 * ALPHA])
    bomb = bytes([0, 2, 255, 255]) * 2**20 * 2
    return {
        "of 24 bits.bmp": (bmp(40, 24, 24, rows(bgr)), RGB),
        "rows from the top.bmp": (bmp(40, -24, 24, rows(bgr[::-1])), RGB),
        "of 8 bits.bmp": (bmp(40, 24, 8, rows(INDEX), table), PALETTE[INDEX]),
        "of 4 bits.bmp": (bmp(40, 24, 4, rows(nibbles), table[:64]), PALETTE[four]),
        "of 1 bit.bmp": (bmp(40, 24, 1, rows(np.packbits(BITS, axis=1)), two), shades[BITS]),
        "of 16 bits.bmp": (bmp(40, 24, 16, rows(packed.view(np.uint8))), stretched, 8),
        "of 32 bits.bmp": (bmp(40, 24, 32, rows(bgrx)), RGB),
        "width of odd bytes.bmp": (bmp(39, 24, 24, rows(bgr[:, :39])), RGB[:, :39]),
        "of OS2.bmp": (core, RGB),
        "alpha by masks.bmp": (
            bmp(40, 24, 32, rows(bgra), compression=3, masks=struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)),
            RGB,
        ),
        "runs.bmp": (bmp(40, 24, 8, runs, table, 1), PALETTE[INDEX]),
        "runs, absolute.bmp": (bmp(40, 24, 8, absolute, table, 1), PALETTE[INDEX]),
        "runs of 8 MiB.bmp": (bmp(7000, 7000, 8, bomb, table, 1), "run-length data"),
        "claims 2 billion a side.bmp": (bmp(2**31 - 1, 2**31 - 1, 24, b"abc"), "million pixels"),
        "claims 40x0.bmp": (bmp(40, 0, 24, b"abc"), "BMP cannot be decoded"),
        "claims a jpeg.bmp": (bmp(40, 24, 24, rows(bgr), compression=4), "BMP cannot be decoded"),
        "claims 7 bits.bmp": (bmp(40, 24, 7, rows(bgr)), "BMP cannot be decoded"),
        "pixels beyond its end.bmp": (
            _forged(bmp(40, 24, 24, rows(bgr)), b"BM", 10, b"\xff\xff\xff\x7f"),
            "BMP cannot",
        ),
    }


def _tiff() -> Cases:
    inks = (255 - RGBA).astype(np.uint8)
    cmyk = np.round((255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:]) / 255).astype(np.uint8)
    ycc = cv2.cvtColor(RGB, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    table = (PALETTE.T.astype(np.uint16) * 257).reshape(-1).tolist()
    size = {256: (3, [40]), 257: (3, [24])}
    rgb = {**size, 258: (3, [8, 8, 8]), 262: (3, [2]), 277: (3, [3])}
    one = {**size, 258: (3, [8]), 262: (3, [1]), 277: (3, [1])}
    bits = {**size, 258: (3, [1]), 277: (3, [1]), 278: (3, [24]), 259: (3, [1])}
    strips = [RGB[y].tobytes() for y in range(24)]
    steps = np.diff(RGB.astype(int), axis=1, prepend=0).astype(np.uint8)
    planes = [RGB[..., channel].tobytes() for channel in range(3)]
    padded = np.zeros((32, 48, 3), np.uint8)
    padded[:24, :40] = RGB
    tiles = [padded[y : y + 16, x : x + 16].tobytes() for y in (0, 16) for x in (0, 16, 32)]
    tiling = {322: (3, [16]), 323: (3, [16])}
    literal = b"".join(b"\x27" + row.tobytes() for row in GREY)
    pack = zlib.compress(RGB.tobytes())
    whole = {259: (3, [1]), 278: (3, [24])}
    y = np.where(GREY / 2.55 > 8, ((GREY / 2.55 + 16) / 116) ** 3, GREY / 2.55 / 903.3)  # CIE 1976, then sRGB's curve
    lightness = np.round(255 * np.where(y > 0.0031308, 1.055 * y ** (1 / 2.4) - 0.055, 12.92 * y))
    return {
        "rgb.tif": (tiff_of(RGB, 2), RGB),
        "big-endian.tif": (tiff({**rgb, **whole}, [RGB.tobytes()], ">"), RGB),
        "big.tif": (tiff({**rgb, **whole}, [RGB.tobytes()], big=True), RGB),
        "a strip a row.tif": (tiff({**rgb, 259: (3, [1]), 278: (3, [1])}, strips), RGB),
        "deflated.tif": (tiff({**rgb, 259: (3, [8]), 278: (3, [24])}, [pack]), RGB),
        "deflated by steps.tif": (
            tiff({**rgb, 259: (3, [8]), 278: (3, [24]), 317: (3, [2])}, [zlib.compress(steps.tobytes())]),
            RGB,
        ),
        "planes.tif": (tiff({**rgb, **whole, 284: (3, [2])}, planes), RGB),
        "tiles.tif": (tiff({**rgb, **tiling, 259: (3, [1])}, tiles), RGB),
        "packbits.tif": (tiff({**one, 259: (3, [32773]), 278: (3, [24])}, [literal]), grey(GREY)),
        "grey.tif": (tiff_of(GREY[..., None], 1), grey(GREY)),
        "white is zero.tif": (tiff_of(255 - GREY[..., None], 0), grey(GREY)),
        "of 1 bit.tif": (tiff({**bits, 262: (3, [1])}, [np.packbits(BITS, axis=1).tobytes()]), grey(BITS * 255)),
        "of 1 bit, white is zero.tif": (
            tiff({**bits, 262: (3, [0])}, [np.packbits(1 - BITS, axis=1).tobytes()]),
            grey(BITS * 255),
        ),
        "of 1 bit, bits from the right.tif": (
            tiff({**bits, 262: (3, [1]), 266: (3, [2])}, [np.packbits(BITS, axis=1, bitorder="little").tobytes()]),
            grey(BITS * 255),
        ),
        "palette.tif": (tiff_of(INDEX[..., None], 3, t320=(3, table)), PALETTE[INDEX]),
        "rgba.tif": (tiff_of(RGBA, 2, t338=(3, [2])), on_white(RGB, ALPHA), 1),
        "rgba multiplied.tif": (
            tiff_of(np.dstack([np.round(RGB * (ALPHA[..., None] / 255)).astype(np.uint8), ALPHA]), 2, t338=(3, [1])),
            on_white(RGB, ALPHA),
            3,
        ),
        "rgb and something else.tif": (tiff_of(RGBA, 2, t338=(3, [0])), RGB),
        "grey alpha.tif": (tiff_of(np.dstack([GREY, ALPHA]), 1, t338=(3, [2])), on_white(grey(GREY), ALPHA), 1),
        "cmyk.tif": (tiff_of(inks, 5), cmyk, 2),
        # Pillow 13 reads planes that are stored in full; before, it expects them halved
        "ycc.tif": (tiff_of(ycc, 6, t530=(3, [1, 1])), *((RGB, 3) if PILLOW >= 13 else ("truncated",))),
        "lab.tif": (tiff_of(np.dstack([GREY, 0 * GREY, 0 * GREY]), 8), grey(lightness), 3),
    }


def _tiff_wide() -> Cases:
    wide = GREY.astype(np.uint16)[..., None] * 257
    size = {256: (3, [40]), 257: (3, [24]), 262: (3, [1]), 277: (3, [1]), 259: (3, [1]), 278: (3, [24])}
    twelve = (GREY.astype(int) << 4).reshape(-1, 2)
    packed = np.stack([twelve[:, 0] >> 4, (twelve[:, 0] & 15) << 4 | twelve[:, 1] >> 8, twelve[:, 1] & 255], 1)
    rgb = {**size, 258: (3, [8, 8, 8]), 262: (3, [2]), 277: (3, [3])}
    bomb = zlib.compress(bytes(3 * 40 * 24 * 1000))
    directory = {**rgb, 256: (4, [2**31 - 1]), 257: (4, [2**31 - 1])}
    looped = bytearray(tiff_of(RGB, 2))
    start = struct.unpack_from("<I", looped, 4)[0]
    struct.pack_into("<I", looped, start + 2 + 12 * 9, start)
    return {
        "grey of 16 bits.tif": (tiff_of(wide, 1), grey(GREY)),
        "grey of 16 bits, white is zero.tif": (tiff_of(~wide, 0), grey(GREY)),
        "grey of 16 bits, big-endian.tif": (
            tiff({**size, 258: (3, [16])}, [wide.astype(">u2").tobytes()], ">"),
            grey(GREY),
        ),
        "rgb of 16 bits.tif": (tiff_of(RGB.astype(np.uint16) * 257, 2), RGB),
        "rgba of 16 bits.tif": (tiff_of(RGBA.astype(np.uint16) * 257, 2, t338=(3, [2])), on_white(RGB, ALPHA), 1),
        "grey of 12 bits.tif": (tiff({**size, 258: (3, [12])}, [packed.astype(np.uint8).tobytes()]), grey(GREY)),
        "signed 16 bits.tif": (tiff_of(wide.astype(np.int16), 1, t339=(3, [2])), "TIFF cannot be decoded"),
        "32 bits.tif": (tiff_of(wide.astype(np.uint32), 1), "no defined white level"),
        "floats.tif": (tiff_of(wide.astype(np.float32), 1, t339=(3, [3])), "no defined white level"),
        "doubles.tif": (tiff_of(wide.astype(np.float64), 1, t339=(3, [3])), "TIFF cannot be decoded"),
        "strip that unpacks to more.tif": (tiff({**rgb, 259: (3, [8])}, [bomb]), np.zeros_like(RGB)),
        "directory that follows itself.tif": (bytes(looped), RGB),
        "claims 2 billion a side.tif": (tiff(directory, [b"abc"]), "million pixels"),
        "claims 0x24.tif": (tiff({**rgb, 256: (3, [0])}, [RGB.tobytes()]), "TIFF cannot be decoded"),
        "tile of 60000x60000.tif": (
            tiff({**rgb, 322: (4, [60000]), 323: (4, [60000]), 259: (3, [8])}, [bomb]),
            "tiles have more",
        ),
        "million tags of numbers.tif": (tiff({**rgb, 50000: (3, [1] * 300000)}, [RGB.tobytes()]), "numbers"),
        "strip beyond its end.tif": (tiff({**rgb, 273: (4, [10**9])}, [RGB.tobytes()]), "TIFF cannot be decoded"),
        "deflate that is broken.tif": (
            tiff({**rgb, 259: (3, [8])}, [b"x\x9c" + b"\xff" * 99]),
            "TIFF cannot be decoded",
        ),
        "unknown compression.tif": (tiff({**rgb, 259: (3, [7777])}, [RGB.tobytes()]), "TIFF cannot be decoded"),
        "directory beyond its end.tif": (b"II*\0\xff\xff\xff\x7f", "TIFF cannot be decoded"),
        "65535 tags that are not there.tif": (b"II*\0\x08\0\0\0\xff\xff", "TIFF cannot be decoded"),
        "2 to 63 tags.tif": (b"II+\0\x08\0\0\0\x10" + bytes(7) + b"\xff" * 7 + b"\x7f", "too many tags"),
    }


def _webp() -> Cases:
    plain = save(RGB, "WEBP", lossless=True)
    lossy = save(RGB, "WEBP", quality=80)
    clear = save(RGBA, "WEBP", lossless=True, exact=True)
    stream, small = plain[12:], save(np.ascontiguousarray(RGB[:6, :8]), "WEBP", lossless=True)[12:]
    wide = b"\2\0\0\0" + struct.pack("<I", 39)[:3] + struct.pack("<I", 23)[:3]
    clear_wide = b"\x12\0\0\0" + wide[4:]
    loops = (b"ANIM", b"\0" * 6)

    def frame(left: int, top: int, width: int, height: int, content: bytes) -> tuple[bytes, bytes]:
        sides = (left // 2, top // 2, width - 1, height - 1, 100)
        return b"ANMF", b"".join(struct.pack("<I", side)[:3] for side in sides) + b"\0" + content

    placed = np.full_like(RGB, 255)
    placed[4:10, 2:10] = RGB[:6, :8]
    other = save(np.ascontiguousarray(255 - RGB), "WEBP", lossless=True)[12:]
    return {
        "lossless.webp": (plain, RGB),
        "lossy.webp": (lossy, opencv(lossy), 1),
        "lossless with alpha.webp": (clear, on_white(RGB, ALPHA), 1),
        "lossy with alpha.webp": (save(RGBA, "WEBP", quality=100), on_white(RGB, ALPHA), 40),
        "1x1.webp": (save(RGB[:1, :1], "WEBP", lossless=True), RGB[:1, :1]),
        "animated.webp": (riff((b"VP8X", wide), loops, frame(0, 0, 40, 24, stream), frame(0, 0, 40, 24, other)), RGB),
        "animated with an offset.webp": (riff((b"VP8X", clear_wide), loops, frame(2, 4, 8, 6, small)), placed),
        "trailing bytes.webp": (plain + b"more" * 99, RGB),
        "exif of nothing.webp": (riff((b"VP8X", b"\x08" + wide[1:]), (stream[:4], stream[8:]), (b"EXIF", b"")), RGB),
        "exif of a million numbers.webp": (
            riff((b"VP8X", b"\x08" + wide[1:]), (stream[:4], stream[8:]), (b"EXIF", _fat_exif())),
            "numbers",
        ),
        "claims 16777216 a side.webp": (
            riff((b"VP8X", b"\2\0\0\0" + b"\xff" * 6), loops),
            "million pixels" if PILLOW >= 13 else "WEBP cannot",
        ),
        "frame larger than its canvas.webp": (
            riff((b"VP8X", wide), loops, frame(2, 4, 40, 24, stream)),
            "WEBP cannot be decoded",
        ),
        "length that lies.webp": (_forged(plain, b"RIFF", 4, b"\xff\xff\xff\x7f"), "WEBP cannot be decoded"),
        "header alone.webp": (plain[:12], "WEBP cannot be decoded"),
    }


def _fat_exif() -> bytes:
    """Return EXIF with a million numbers as the name of a program."""
    return exif((0x0131, 3, 10**6, struct.pack("<I", 26))) + bytes(2 * 10**6)


def _avif() -> Cases:
    best = {"quality": 100, "subsampling": "4:4:4"}
    plain = save(RGB, "AVIF", **best)
    lossy = save(RGB, "AVIF", quality=60)
    sequence = io.BytesIO()
    Image.fromarray(RGB).save(sequence, "AVIF", save_all=True, append_images=[Image.fromarray(255 - RGB)], **best)
    size = plain.index(b"ispe") + 8
    stretched = plain[:size] + struct.pack(">II", 400, 240) + plain[size + 8 :]
    return {
        "plain.avif": (plain, RGB, 8),
        "lossy.avif": (lossy, opencv(lossy), 4),
        "grey.avif": (save(GREY, "AVIF", **best), grey(GREY), 8),
        "alpha.avif": (save(RGBA, "AVIF", **best), on_white(RGB, ALPHA), 8),
        "sequence.avif": (sequence.getvalue(), RGB, 8),
        "1x1.avif": (save(RGB[:1, :1], "AVIF", **best), RGB[:1, :1], 8),
        "trailing bytes.avif": (plain + b"more" * 99, RGB, 8),
        "claims 60000x60000.avif": (plain[:size] + struct.pack(">II", 60000, 60000) + plain[size + 8 :], "AVIF cannot"),
        "claims 0x0.avif": (plain[:size] + bytes(8) + plain[size + 8 :], "AVIF cannot be decoded"),
        "claims 9000x5000.avif": (plain[:size] + struct.pack(">II", 9000, 5000) + plain[size + 8 :], "million pixels"),
        "claims 400x240.avif": (stretched, opencv(stretched), 4),
        "exif of a million numbers.avif": (save(RGB, "AVIF", exif=_fat_exif(), **best), "numbers"),
        "type alone.avif": (plain[:32], "AVIF cannot be decoded"),
    }


def _turned() -> Cases:
    """Store the image in the eight ways of EXIF 2.3."""
    ways = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1]}
    across = RGB.transpose(1, 0, 2)
    ways |= {5: across, 6: across[::-1].copy(), 7: across[::-1, ::-1], 8: across[:, ::-1]}
    ways[6], ways[8] = across[::-1], across[:, ::-1]
    cases: Cases = {}
    for number, stored in ways.items():
        tag = exif((0x0112, 3, 1, bytes([number, 0, 0, 0])))
        cases[f"turned {number}.png"] = png(np.ascontiguousarray(stored), 8, 2, [(b"eXIf", tag)]), RGB
    tag = exif((0x0112, 3, 1, b"\0\x06\0\0"), order=">")
    cases["turned 6, big-endian.png"] = png(np.ascontiguousarray(ways[6]), 8, 2, [(b"eXIf", tag)]), RGB
    tag = exif((0x0112, 3, 1, b"\x09\0\0\0"))
    cases["turned 9.png"] = png(RGB, 8, 2, [(b"eXIf", tag)]), RGB
    cases["turned 3.tif"] = tiff_of(np.ascontiguousarray(ways[3]), 2, t274=(3, [3])), RGB
    cases["turned 6.tif"] = tiff_of(np.ascontiguousarray(ways[6]), 2, t274=(3, [6])), RGB
    return cases


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", "a" * 999)
    return stream.getvalue()


def _foreign() -> Cases:
    whole = png(RGB, 8, 2)
    unknown = "not a known image format"
    return {
        "empty.png": (b"", "empty file"),
        "one byte.jpg": (b"\xff", unknown),
        "zeros.jpg": (bytes(9999), unknown),
        "a png by another name.jpg": (whole, RGB),
        "a jpeg by another name.png": (encoded(), opencv(encoded()), 1),
        "a gif by another name.webp": (gif((40, 24), [((0, 0), INDEX, None)], PALETTE), PALETTE[INDEX]),
        "a zip behind it.png": (whole + _zip(), RGB),
        "another png behind it.png": (whole + png(255 - RGB, 8, 2), RGB),
        "text.jpg": (b"only words\n" * 99, unknown),
        "text in utf-16.jpg": ("only words".encode("utf-16"), unknown),
        "page.jpg": (b"<!DOCTYPE html><html><img src=x onerror=alert(1)></html>", "HTML is not supported"),
        "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is not supported"),
        "drawing that includes itself.png": (
            b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY a '&a;&a;'>]><svg>&a;</svg>",
            "SVG",
        ),
        "document.jpg": (b"%PDF-1.7\n%\xff\xd8\xff", "PDF is not supported"),
        "archive.png": (_zip(), "ZIP is not supported"),
        "pickle.png": (pickle.dumps({"a": [1, 2]}), unknown),
        "icon.png": (save(RGB, "ICO", sizes=[(16, 16)]), "ICO is not supported"),
        "cursor.bmp": (b"\0\0\2\0\1\0" + bytes(99), "ICO is not supported"),
        "map.bmp": (save(RGB, "PPM"), "PPM is not supported"),
        "high efficiency.avif": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "HEIF is not supported"),
        "jpeg of 2000.jpg": (save(RGB, "JPEG2000"), "JPEG 2000 is not supported"),
        "jpeg xl.jpg": (b"\xff\x0a" + bytes(99), "JPEG XL is not supported"),
        "film.avif": (b"\0\0\0\x18ftypisom\0\0\0\0mp41isom" + bytes(99), "video is not supported"),
        "film of the web.webp": (b"\x1a\x45\xdf\xa3" + bytes(99), "video is not supported"),
        "sound.webp": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(99), unknown),
        "layers.png": (b"8BPS\0\1" + bytes(99), "PSD is not supported"),
        "python.png": (b"import os\nos.system('true')\n", unknown),
        "encapsulated.tif": (b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run\n", unknown),
        "a mark before it.png": (b"\xef\xbb\xbf" + whole, unknown),
        "line ends turned.png": (whole.replace(b"\r\n", b"\n"), unknown),
        "bm and words.bmp": (b"BM only begins like an image" * 9, "BMP cannot be decoded"),
    }


def _damaged(found: dict[str, Odd]) -> dict[str, Odd]:
    """Cut one valid file of each format short at several places."""
    wholes = ("rgba.png", "4-2-0.jpg", "progressive.jpg", "whole.gif", "of 24 bits.bmp", "deflated.tif", "lossy.webp")
    cases = {}
    for whole in (*wholes, "plain.avif"):
        data, (stem, ending) = found[whole].data, whole.rsplit(".", 1)
        for share in (10, 50, 90):
            name = f"{stem} cut at {share}.{ending}"
            cases[name] = Odd(name, data[: len(data) * share // 100], reason="cannot be decoded")
    return cases
