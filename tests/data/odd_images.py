"""A corpus of odd and hostile image files, each with its pixels or the reason why it is refused.

Pixels are known by construction (image_writers), or come from OpenCV where a format is lossy: never from our loader.
"""

import io
import struct
import zipfile
import zlib
from collections import namedtuple
from functools import cache

import cv2
import numpy as np
from PIL import Image, ImageCms

from tests.builders.pixels import encode, make_noise
from tests.data.image_writers import bmp, exif, gif, png, png_of, riff, rows, segment, tiff, tiff_of

# an odd file with its expected pixels, each within the tolerance, or a part of the reason for its refusal
Odd = namedtuple("Odd", ["name", "data", "pixels", "reason", "tolerance"])
COARSE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
RGB = np.asarray(cv2.resize(COARSE, (40, 24), interpolation=cv2.INTER_CUBIC), np.uint8)
GREY = np.ascontiguousarray(RGB[..., 0])
ALPHA = np.ascontiguousarray(RGB[..., 2])
RGBA = np.dstack([RGB, ALPHA])
PALETTE = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
MILLION_NUMBERS = exif((0x0131, 3, 10**6, struct.pack("<I", 26))) + bytes(2 * 10**6)  # as the name of a program
LONG_COMMENT = b"!\xfe" + (b"\xff" + b"a" * 255) * 12_000 + b"\0"
INDEX = np.random.default_rng(2).integers(0, 256, (24, 40), dtype=np.uint8)


def grey(samples):
    return np.dstack([samples.astype(np.uint8)] * 3)


def on_white(colour, alpha):
    share = alpha[..., None] / 255
    return np.round(colour * share + 255 * (1 - share)).astype(np.uint8)


def opencv(data):
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flags), np.uint8)


def encoded(*options, pixels=RGB):
    """Write a JPEG with OpenCV."""
    bgr = np.ascontiguousarray(pixels[..., ::-1]) if pixels.ndim == 3 else pixels
    return bytes(cv2.imencode(".jpg", bgr, list(options))[1].tobytes())


@cache
def corpus():
    """Return the whole corpus by kind; no name of a kind or of a file occurs twice."""
    collected = {}
    for make in (_png, _jpeg, _jpeg_structure, _gif, _bmp, _tiff, _tiff_wide, _webp, _avif, _foreign):
        for name, (data, outcome, *tolerance) in make().items():
            assert name not in collected
            fields = (None, outcome) if isinstance(outcome, str) else (outcome, "")
            collected[name] = Odd(name, data, *fields, *(tolerance or [0]))
    return collected


def _png():
    cases = {}
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
    shades = np.array([[1000, 1001, 60000]])[..., None]
    clear = (b"tRNS", struct.pack(">H", 1000))
    cases["grey of 16 bits with a clear shade.png"] = png(shades, 16, 0, [clear]), grey(np.array([[255, 3, 234]]))
    shades, clear = np.array([[[256, 512, 768], [256, 512, 60000]]]), (b"tRNS", struct.pack(">3H", 256, 512, 768))
    expected = np.array([[[255, 255, 255], [1, 2, 234]]], np.uint8)
    cases["rgb of 16 bits with a clear colour.png"] = png(shades, 16, 2, [clear]), expected
    cases["rgba of 16 bits.png"] = png(RGBA.astype(np.uint16) * 257, 16, 6), on_white(RGB, ALPHA), 1
    cases["grey of 16 bits.png"] = png(wide[..., :1], 16, 0), grey(GREY)
    grey_alpha = np.dstack([GREY, ALPHA])
    cases["grey alpha.png"] = png(grey_alpha, 8, 4), on_white(grey(GREY), ALPHA), 1
    cases["rgba.png"] = png(RGBA, 8, 6), on_white(RGB, ALPHA), 1
    clear = (b"tRNS", struct.pack(">3H", *RGB[3, 5]))
    expected = np.where((RGB[3, 5] == RGB).all(2, keepdims=True), 255, RGB)
    cases["rgb with a clear colour.png"] = png(RGB, 8, 2, [clear]), expected
    profile = (b"iCCP", b"x\0\0" + zlib.compress(b"no profile at all"))
    colours = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    cases["profile.png"] = encode(RGB, "PNG", icc_profile=colours), RGB
    cases["profile that is none.png"] = png(RGB, 8, 2, [profile]), RGB
    cases["two profiles.png"] = png(RGB, 8, 2, [profile, profile]), "several colour profiles"
    bomb = (b"zTXt", b"a\0\0" + zlib.compress(bytes(2 * 2**20)))
    cases["text that unpacks to 2 MiB.png"] = png(RGB, 8, 2, [bomb]), RGB
    long = (b"tEXt", b"a\0" + bytes([97]) * 65 * 2**20)  # Pillow keeps 64 MiB of texts
    cases["text of 65 MiB.png"] = png(RGB, 8, 2, [long]), RGB
    cases["two thousand comments.png"] = png(RGB, 8, 2, [(b"tEXt", b"a\0b")] * 2000), RGB
    idat = (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in RGB)))
    for name, size, reason in (
        ("0x24", (0, 24), "PNG cannot"),
        ("10001x10000", (10_001, 10_000), "more than 50 million pixels (10001 x 10000)"),  # Pillow warns of it
        ("2 billion a side", (2**31 - 1, 2**31 - 1), "more than 50 million pixels"),  # Pillow refuses it
    ):
        cases[f"claims {name}.png"] = png_of(*size, 8, 2, 0, [idat]), reason
    cases["claims depth 3.png"] = png_of(40, 24, 3, 2, 0, [idat]), "PNG cannot be decoded"
    flipped = bytearray(png(RGB, 8, 2, [(b"tEXt", b"a\0bcd")]))
    flipped[flipped.index(b"bcd")] ^= 1
    cases["bit flipped in a comment.png"] = bytes(flipped), "is broken"
    short = (b"IDAT", zlib.compress(b"\0" + RGB[0].tobytes()))
    cases["fewer rows than it claims.png"] = png_of(40, 24, 8, 2, 0, [short]), "fewer pixels"
    cases["all black.png"] = png(0 * RGB, 8, 2), 0 * RGB
    cases["all black, in pieces.png"] = png(0 * RGB, 8, 2, pieces=3), 0 * RGB
    cases["interlaced.png"] = png(RGB, 8, 2, interlaced=True), RGB
    first_pass = (b"IDAT", zlib.compress(b"".join(b"\0" + bytes(row[::8].nbytes) for row in RGB[::8])))
    cases["one pass of seven.png"] = png_of(40, 24, 8, 2, 1, [first_pass]), "fewer pixels"
    animation = (b"acTL", struct.pack(">II", 2, 0))
    control, second = ((b"fcTL", struct.pack(">IIIIIHHBB", n, 40, 24, 0, 0, 1, 10, 0, 0)) for n in (0, 1))
    other = (b"fdAT", struct.pack(">I", 2) + zlib.compress((b"\0" + bytes(120)) * 24))
    cases["animated.png"] = png(RGB, 8, 2, [animation, control], [second, other]), RGB
    return cases


def _jpeg():
    cases = {}
    as_cmyk = Image.fromarray(RGB).convert("CMYK")
    for name, data in {"grey": encoded(pixels=GREY), "cmyk": encode(as_cmyk, "JPEG", quality=95)}.items():
        cases[f"{name}.jpg"] = data, opencv(data), 3 if name == "cmyk" else 1
    cases["of 12 bits.jpg"] = _forged(encode(GREY, "JPEG"), b"\xff\xc0", 4, b"\x0c"), "not supported"
    for name, sides in {"0x24": (24, 0), "65535x65535": (65535, 65535)}.items():
        forged = _forged(encoded(), b"\xff\xc0", 5, struct.pack(">HH", *sides))
        cases[f"claims {name}.jpg"] = forged, "million pixels" if 0 not in sides else "JPEG cannot be decoded"
    return cases


def _forged(data, after, skip, new):
    index = data.index(after) + skip
    return data[:index] + new + data[index + len(new) :]


def _jpeg_structure():
    plain = encoded()
    expected = opencv(plain)
    other = encoded(pixels=np.ascontiguousarray(255 - RGB))
    jfif, rest = plain[:20], plain[20:]
    thumbnail = b"Exif\0\0" + exif((0x0112, 3, 1, b"\1\0\0\0"), following=26) + bytes(4) + other
    sized = {
        "two concatenated": plain + other,
        "with a thumbnail": jfif + segment(0xE1, thumbnail) + rest,
        "an end in its comment": jfif + segment(0xFE, b"\xff\xd9\xff\xd9") + rest,
        "junk before its end": plain[:-2] + b"\x12\x34" + plain[-2:],
        "exif of 4 billion values": jfif + segment(0xE1, b"Exif\0\0" + exif((0x0112, 5, 2**32 - 1, bytes(4)))) + rest,
    }
    cases = {f"{name}.jpg": (data, expected, 1) for name, data in sized.items()}
    cases["300 scans of 8000x6000.jpg"] = scan_bomb(8000, 6000, 300), "too many scans"
    cases["2.5 MiB of exif.jpg"] = jfif + segment(0xE1, b"Exif\0\0" + bytes(65000)) * 40 + rest, "EXIF is too large"
    cases["20000 comments.jpg"] = jfif + segment(0xFE, b"") * 20000 + rest, "too many segments"
    cases["junk between segments.jpg"] = jfif + bytes(20000) + rest, "junk between"
    unwritten = rest[:-300] + bytes(300)
    cases["end of its thumbnail alone.jpg"] = jfif + segment(0xE1, thumbnail) + unwritten, "never written"
    return cases


def scan_bomb(width, height, scans):
    """Write a progressive grey JPEG of flat mid grey, whose refining scans say nothing over and over."""
    dc = segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\x00")  # one code: no difference
    ac = segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\xe0")  # one code: the end of 2^14 blocks and more
    tables = segment(0xDB, b"\x00" + bytes([1] * 64)) + dc + ac
    frame = segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00")
    blocks = -(-width // 8) * -(-height // 8)
    first = segment(0xDA, b"\x01\x01\x00\x00\x00\x00") + bytes(-(-blocks // 8))
    runs = -(-blocks // 2**14)
    size = -(-15 * runs // 8)
    zeros = (2 ** (8 * size - 15 * runs) - 1).to_bytes(size)  # of each run, and ones to the end of its byte
    band = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + zeros
    return b"\xff\xd8" + tables + frame + first + band * scans + b"\xff\xd9"


def _gif():
    size, whole = (40, 24), ((0, 0), INDEX, None)
    shown = PALETTE[INDEX]
    clear = np.where(INDEX[..., None] == 7, 255, shown)
    small = INDEX[:5, :7]
    holed = np.full_like(RGB, 255)
    holed[3:8, 2:9] = np.where(small[..., None] == small[0, 0], 255, PALETTE[small])
    return {
        "clear index.gif": (gif(size, [((0, 0), INDEX, 7)], PALETTE), clear),
        "frame with an offset and a clear index.gif": (gif(size, [((2, 3), small, int(small[0, 0]))], PALETTE), holed),
        "animated, disposed of.gif": (gif(size, [whole, ((1, 1), small, 3)], PALETTE, disposal=2), shown),
        "comment of 3 MiB.gif": (gif(size, [whole], PALETTE, before=LONG_COMMENT), "blocks before its first"),
        "canvas of 65535x65535.gif": (gif((65535, 65535), [((0, 0), INDEX[:1, :1], None)], PALETTE), "million pixels"),
    }


def _bmp():
    bgr = np.ascontiguousarray(RGB[..., ::-1])
    table = np.dstack([PALETTE[..., ::-1].reshape(1, 256, 3), np.zeros((1, 256, 1), np.uint8)]).tobytes()
    bgra = np.dstack([bgr, ALPHA])
    bomb, masks = bytes([0, 2, 255, 255]) * 2**20 * 2, struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    beyond = _forged(bmp(40, 24, 24, rows(bgr)), b"BM", 10, b"\xff\xff\xff\x7f")
    return {
        "alpha by masks.bmp": (bmp(40, 24, 32, rows(bgra), compression=3, masks=masks), RGB),
        "runs of 8 MiB.bmp": (bmp(7000, 7000, 8, bomb, table, 1), "run-length data"),
        "pixels beyond its end.bmp": (beyond, "BMP cannot"),
    }


def _tiff():
    inks = (255 - RGBA).astype(np.uint8)
    cmyk = np.round((255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:]) / 255).astype(np.uint8)
    rgb = {256: [40], 257: [24], 258: [8, 8, 8], 259: [1], 262: [2], 277: [3], 278: [24]}
    multiplied = np.dstack([np.round(RGB * (ALPHA[..., None] / 255)).astype(np.uint8), ALPHA])
    return {
        "two pages.tif": (encode(RGB, "TIFF", save_all=True, append_images=[Image.fromarray(255 - RGB)]), RGB),
        "big-endian.tif": (tiff(rgb, [RGB.tobytes()], ">"), RGB),
        "rgb of 16 bits.tif": (tiff_of(RGB.astype(np.uint16) * 257, 2), RGB),
        "white is zero.tif": (tiff_of(255 - GREY[..., None], 0), grey(GREY)),
        "rgba.tif": (tiff_of(RGBA, 2, {338: [2]}), on_white(RGB, ALPHA), 1),
        "rgba multiplied.tif": (tiff_of(multiplied, 2, {338: [1]}), on_white(RGB, ALPHA), 3),
        "grey alpha.tif": (tiff_of(np.dstack([GREY, ALPHA]), 1, {338: [2]}), on_white(grey(GREY), ALPHA), 1),
        "cmyk.tif": (tiff_of(inks, 5), cmyk, 2),
    }


def _tiff_wide():
    wide = GREY.astype(np.uint16)[..., None] * 257
    size = {256: [40], 257: [24], 259: [1], 262: [1], 277: [1], 278: [24]}
    twelve = (GREY.astype(int) << 4).reshape(-1, 2)
    packed = np.stack([twelve[:, 0] >> 4, (twelve[:, 0] & 15) << 4 | twelve[:, 1] >> 8, twelve[:, 1] & 255], 1)
    rgb = {**size, 258: [8, 8, 8], 262: [2], 277: [3]}
    bomb = zlib.compress(bytes(3 * 40 * 24 * 1000))
    tile = tiff({**rgb, 322: (4, [60000]), 323: (4, [60000]), 259: [8]}, [bomb])
    whole_numbers = encode(Image.fromarray(np.ones((2, 2), np.int32)), "TIFF")
    looped = bytearray(tiff_of(RGB, 2))
    start = struct.unpack_from("<I", looped, 4)[0]
    struct.pack_into("<I", looped, start + 2 + 12 * 9, start)
    return {
        "grey of 16 bits.tif": (tiff_of(wide, 1), grey(GREY)),
        "grey of 16 bits, white is zero.tif": (tiff_of(~wide, 0), grey(GREY)),
        "rgba of 16 bits.tif": (tiff_of(RGBA.astype(np.uint16) * 257, 2, {338: [2]}), on_white(RGB, ALPHA), 1),
        "grey of 12 bits.tif": (tiff({**size, 258: [12]}, [packed.astype(np.uint8).tobytes()]), grey(GREY)),
        "floats.tif": (tiff_of(wide.astype(np.float32), 1, {339: [3]}), "no defined white level"),
        "integers of 32 bits.tif": (whole_numbers, "no defined white level"),
        "strip that unpacks to more.tif": (tiff({**rgb, 259: [8]}, [bomb]), np.zeros_like(RGB)),
        "directory that follows itself.tif": (bytes(looped), RGB),
        "tile of 60000x60000.tif": (tile, "tiles have more"),
        "million tags of numbers.tif": (tiff({**rgb, 50000: [1] * 300000}, [RGB.tobytes()]), "numbers"),
        "2 to 63 tags.tif": (b"II+\0\x08\0\0\0\x10" + bytes(7) + b"\xff" * 7 + b"\x7f", "too many tags"),
    }


def _webp():
    plain = encode(RGB, "WEBP", lossless=True)
    lossy = encode(RGB, "WEBP", quality=80)
    clear = encode(RGBA, "WEBP", lossless=True, exact=True)
    stream, small = plain[12:], encode(np.ascontiguousarray(RGB[:6, :8]), "WEBP", lossless=True)[12:]
    wide = b"\2\0\0\0" + struct.pack("<I", 39)[:3] + struct.pack("<I", 23)[:3]
    clear_wide = b"\x12\0\0\0" + wide[4:]
    loops = (b"ANIM", b"\0" * 6)

    def frame(left, top, width, height, content):
        sides = (left // 2, top // 2, width - 1, height - 1, 100)
        return b"ANMF", b"".join(struct.pack("<I", side)[:3] for side in sides) + b"\0" + content

    numbers = riff((b"VP8X", b"\x08" + wide[1:]), (stream[:4], stream[8:]), (b"EXIF", MILLION_NUMBERS))
    placed = np.full_like(RGB, 255)
    placed[4:10, 2:10] = RGB[:6, :8]
    return {
        "lossy.webp": (lossy, opencv(lossy), 1),
        "lossless with alpha.webp": (clear, on_white(RGB, ALPHA), 1),
        "animated with an offset.webp": (riff((b"VP8X", clear_wide), loops, frame(2, 4, 8, 6, small)), placed),
        "exif of a million numbers.webp": (numbers, RGB),
    }


def _avif():
    best = {"quality": 100, "subsampling": "4:4:4"}
    plain = encode(RGB, "AVIF", **best)
    lossy = encode(RGB, "AVIF", quality=60)
    size = plain.index(b"ispe") + 8
    return {
        "lossy.avif": (lossy, opencv(lossy), 4),
        "alpha.avif": (encode(RGBA, "AVIF", **best), on_white(RGB, ALPHA), 8),
        "claims 9000x5000.avif": (plain[:size] + struct.pack(">II", 9000, 5000) + plain[size + 8 :], "million pixels"),
    }


def _foreign():
    whole = png(RGB, 8, 2)
    svg = b"<?xml version='1.0'?>\n<!-- by hand -->\n<svg xmlns='http://www.w3.org/2000/svg'/>"
    unknown, zipped = "not a known image format", io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.txt", "a" * 999)
    heic = "HEIC is not supported: convert it to JPEG or PNG"
    return {
        "empty.png": (b"", "empty file"),
        "film.avif": (b"\0\0\0\x18ftypisom\0\0\0\0mp41isom", "video is not supported"),
        "portable.ppm": (encode(RGB, "PPM"), "PPM is not supported"),
        "a png by another name.jpg": (whole, RGB),
        "a zip behind it.png": (whole + zipped.getvalue(), RGB),
        "text.jpg": (b"only words\n" * 99, unknown),
        "page.jpg": (b"\n<!DOCTYPE html><html><svg onload=alert(1)></svg></html>", "HTML is not supported"),
        "drawing.png": (svg, "SVG is not"),
        "archive.png": (zipped.getvalue(), "ZIP is not supported"),
        "icon.png": (encode(RGB, "ICO", sizes=[(16, 16)]), "ICO is not supported"),
        "high efficiency.avif": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), heic),
        "high efficiency.jpg": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(99), heic),
        "jpeg of 2000.jpg": (encode(RGB, "JPEG2000"), "JPEG 2000 is not supported"),
        "a mark before it.png": (b"\xef\xbb\xbf" + whole, unknown),
        "bm and words.bmp": (b"BM only begins like an image" * 9, "BMP cannot be decoded"),
    }


def _flat_rgba():
    """Return a PNG of 50 million equal pixels of 16 bits; a zip bomb, in effect."""
    squeeze = zlib.compressobj(9)
    packed = b"".join(squeeze.compress(b"\0" + b"\x55" * (SIDE * 8)) for _ in range(SIDE)) + squeeze.flush()
    return png_of(SIDE, SIDE, 16, 6, 0, [(b"IDAT", packed)])


def _noisy_rgba():
    pixels = np.dstack([make_noise(0, 5000, 5000), make_noise(1, 5000, 5000)[..., :1]])
    return encode(pixels, "WEBP", quality=0, **LOSSLESS)


def _lying_avif():
    """Return an AVIF that claims 64 x 64 pixels and contains 64 million."""
    data = encode(np.full((8000, 8000), 9, np.uint8), "AVIF", speed=10, quality=10)
    size = data.index(b"ispe") + 8
    return data[:size] + struct.pack(">II", 64, 64) + data[size + 8 :]


def _deflated_rgba():
    """Return a TIFF of 50 million equal pixels of 16 bits."""
    packed = zlib.compress(struct.pack("<4H", 1000, 2000, 3000, 40000) * SIDE**2)
    return tiff_of(np.broadcast_to(np.uint16(0), (SIDE, SIDE, 4)), 2, {338: [2]}, packed)


def _jpeg_fractions():
    """Return a JPEG whose EXIF states its density in a quarter of a million fractions."""
    head = exif((0x011A, 5, 240_000, struct.pack("<I", 26)), (0x0128, 3, 1, b"\2\0\0\0"))
    whole = b"Exif\0\0" + head + bytes(240_000 * 8)
    pieces = [whole[:60000], *(b"Exif\0\0" + whole[i : i + 60000] for i in range(60000, len(whole), 60000))]
    plain = encoded()
    return plain[:2] + b"".join(segment(0xE1, piece) for piece in pieces) + plain[2:]


SIDE = 7071  # 50 million pixels
TEXT = (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 99)))
LOSSLESS = {"lossless": True, "method": 0}
BOMBS = {  # the content of the costliest images; height and width, or a part of the reason why it is refused
    "largest flat rgba of 16 bits.png": (_flat_rgba, (SIDE, SIDE)),
    "900 texts that unpack.png": (lambda: png(RGB, 8, 2, [TEXT] * 900), RGB.shape[:2]),
    "1 MP of 900 scans.jpg": (lambda: scan_bomb(1000, 1000, 900), (1000, 1000)),
    "2 MiB of fractions in exif.jpg": (_jpeg_fractions, RGB.shape[:2]),
    "4 MiB of leaps.bmp": (lambda: bmp(SIDE, SIDE, 8, b"\0\2\1\1" * 10**6, bytes(1024), 1), (SIDE, SIDE)),
    "largest rgba of 16 bits, a bomb.tif": (_deflated_rgba, (SIDE, SIDE)),
    "largest rgba.webp": (_noisy_rgba, (5000, 5000)),
    "too many pixels.webp": (lambda: encode(np.tile(RGB, (210, 130, 1)), "WEBP", **LOSSLESS), "25 million"),
    "too many bytes.avif": (lambda: encode(RGB, "AVIF") + bytes(32 * 2**20), "larger than 32 MiB"),
    "64 million behind 64x64.avif": (_lying_avif, (64, 64)),
}
