"""Tests of avatar_bench.data.decoding: every format to the right pixels, every broken file to a reason."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

from avatar_bench.data import decoding as module
from avatar_bench.data.decoding import SUFFIXES, decode, decode_bytes
from avatar_bench.errors import DataError

# pytest resets the filter that decode.py sets when it is imported; a subprocess below checks that one.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

Pixels = NDArray[np.uint8]
RAW = Path(__file__).parents[3] / "shared" / "data" / "raw"
REFUSED = {
    "drawing-langflow__People Avatar-01-23.svg",
    "drawing-langflow__People Avatar-02-13.svg",
    "pillow__hopper.ico",
    "pillow__hopper.ppm",
    "pillow__hopper_1bit.pbm",
    "pillow__truncated_image.png",
    "pillow__truncated_jpeg.jpg",
}
LOSSLESS = [
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
]
# EXIF 2.3, tag 274: which side of the upright image the stored rows and columns begin at.
STORED_FROM = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


@pytest.fixture(scope="module")
def sample() -> Pixels:
    """A smooth coloured image, (24, 40, 3), without symmetry."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (40, 24), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def save(pixels: Pixels | Image.Image, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, depth: int, colour: int, row: bytes, transparent: bytes = b"") -> bytes:
    """Write a PNG by hand, each row the same, with a tRNS chunk."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    middle = chunk(b"tRNS", transparent) if transparent else b""
    rows = b"".join(b"\0" + row for _ in range(height if row else 0))
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(width: int, bits: int, data: bytes, white_is_zero: bool = False) -> bytes:
    """Write a grey TIFF of one row by hand."""
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 8), (277, 1)]
    tags += [(278, 1), (279, len(data))]
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def grey(data: bytes) -> list[int]:
    """Decode and give the first row, which must be grey."""
    row = decode_bytes(data, "row")[0]
    assert (row == row[:, :1]).all()
    return [int(value) for value in row[:, 0]]


def opencv(data: bytes) -> Pixels:
    """Decode with a decoder that shares no code with Pillow but libjpeg-turbo."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB), dtype=np.uint8)


def difference(first: Pixels, second: Pixels) -> int:
    assert first.shape == second.shape
    return int(np.abs(first.astype(int) - second).max())


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_lossless_formats_give_back_the_pixels(sample: Pixels, kind: str, options: dict[str, Any]) -> None:
    assert np.array_equal(decode_bytes(save(sample, kind, **options), "x"), sample)


@pytest.mark.parametrize(("kind", "options"), [case for case in LOSSLESS if case[0] != "BMP"])
def test_a_full_alpha_channel_changes_no_pixel(sample: Pixels, kind: str, options: dict[str, Any]) -> None:
    opaque = np.dstack([sample, np.full(sample.shape[:2], 255, np.uint8)])
    assert np.array_equal(decode_bytes(save(opaque, kind, **options), "x"), sample)


@pytest.mark.parametrize(
    "options", [{"subsampling": s, "progressive": p} for s in (0, 1, 2) for p in (False, True)] + [{"keep_rgb": True}]
)
def test_jpeg_gives_the_pixels_of_an_independent_decoder(sample: Pixels, options: dict[str, Any]) -> None:
    data = save(sample, "JPEG", quality=80, **options)
    assert difference(decode_bytes(data, "x"), opencv(data)) <= 1  # equal with libjpeg-turbo in both


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "WEBP"])
def test_lossy_formats_come_close(sample: Pixels, kind: str) -> None:
    difference_ = np.abs(decode_bytes(save(sample, kind, quality=90), "x").astype(int) - sample)
    assert difference_.mean() < 5


@pytest.mark.parametrize("orientation", STORED_FROM)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied_once(sample: Pixels, kind: str, orientation: int) -> None:
    rows, columns = STORED_FROM[orientation]
    stored = sample if rows in ("top", "bottom") else sample.transpose(1, 0, 2)
    stored = stored[::-1] if rows in ("bottom", "right") else stored
    stored = stored[:, ::-1] if columns in ("bottom", "right") else stored
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 100, "subsampling": 0},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }
    upright = decode_bytes(save(np.ascontiguousarray(stored), kind, exif=exif, **options.get(kind, {})), "x")
    assert difference(upright, sample) <= (8 if kind in ("JPEG", "AVIF") else 0)


@pytest.mark.parametrize("orientation", [0, 9, 60000])
def test_an_orientation_that_does_not_exist_is_ignored(sample: Pixels, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    assert np.array_equal(decode_bytes(save(sample, "PNG", exif=exif), "x"), sample)


def test_the_ending_does_not_matter(sample: Pixels, tmp_path: Path) -> None:
    for name in ("upper.PNG", "wrong.jpg", "none", "кот, [1]=.gif"):
        (tmp_path / name).write_bytes(save(sample, "PNG"))
        assert np.array_equal(decode(tmp_path / name), sample)


def test_the_result_is_writable_and_contiguous(sample: Pixels) -> None:
    for data in (save(sample, "PNG"), save(sample, "JPEG"), save(sample[..., 0], "PNG")):
        pixels = decode_bytes(data, "x")
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_on_white(sample: Pixels, kind: str, mode: str) -> None:
    alpha = sample[..., 2]
    colour = sample if mode == "RGBA" else np.repeat(sample[..., :1], 3, axis=2)
    channels = [*np.moveaxis(colour[..., : len(mode) - 1], 2, 0), alpha]
    image = Image.merge(mode, [Image.fromarray(np.ascontiguousarray(channel)) for channel in channels])
    share = alpha[..., None] / 255
    expected = np.round(colour * share + 255 * (1 - share)).astype(np.uint8)
    assert difference(decode_bytes(save(image, kind), "x"), expected) <= 1


@pytest.mark.parametrize("mode", ["P", "PA"])
def test_a_palette_with_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 0])
    image.putdata([0, 1, 2])
    if mode == "P":
        data = save(image, "PNG", transparency=bytes([255, 0, 255]))
    else:
        image = image.convert("PA")
        image.putalpha(Image.fromarray(np.array([[255, 0, 255]], np.uint8)))
        data = save(image, "TIFF")
    assert decode_bytes(data, "x").tolist() == [[[10, 20, 30], [255, 255, 255], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("depth", "row", "transparent", "expected"),
    [
        (1, b"\x40", 0, [255, 255]),
        (1, b"\x40", 1, [0, 255]),
        (2, b"\x1b", 2, [0, 85, 255, 255]),
        (4, b"\x5f\x0a", 5, [255, 255, 0, 170]),
        (8, b"\x07\x08\xff", 7, [255, 8, 255]),
        (16, struct.pack(">3H", 1000, 1001, 60000), 1000, [255, 3, 234]),
    ],
)
def test_the_transparent_colour_of_a_grey_png_is_white(
    depth: int, row: bytes, transparent: int, expected: list[int]
) -> None:
    assert grey(png(len(expected), 1, depth, 0, row, struct.pack(">H", transparent))) == expected


def test_the_transparent_colour_of_an_rgb_png_is_white() -> None:
    eight = png(2, 1, 8, 2, bytes([1, 2, 3, 1, 2, 4]), struct.pack(">3H", 1, 2, 3))
    assert decode_bytes(eight, "x").tolist() == [[[255, 255, 255], [1, 2, 4]]]
    sixteen = png(2, 1, 16, 2, struct.pack(">6H", 256, 512, 768, 256, 512, 60000), struct.pack(">3H", 256, 512, 768))
    assert decode_bytes(sixteen, "x").tolist() == [[[255, 255, 255], [1, 2, 234]]]


def test_grey_one_bit_and_palette_images_become_rgb(sample: Pixels) -> None:
    shades = sample[..., 0]
    assert np.array_equal(decode_bytes(save(shades, "PNG"), "x"), np.dstack([shades] * 3))
    bits = Image.fromarray(shades).convert("1")
    for kind in ("PNG", "BMP", "TIFF", "GIF"):
        assert np.array_equal(decode_bytes(save(bits, kind), "x"), np.dstack([np.asarray(bits.convert("L"))] * 3))
    palette = Image.fromarray(sample).quantize(64)
    for kind in ("PNG", "BMP", "TIFF", "GIF"):
        assert np.array_equal(decode_bytes(save(palette, kind), "x"), np.asarray(palette.convert("RGB")))


def test_cmyk_jpeg_is_read_as_inverted_ink(sample: Pixels) -> None:
    data = save(Image.fromarray(sample).convert("CMYK"), "JPEG", quality=95)
    assert difference(decode_bytes(data, "x"), opencv(data)) <= 3  # the decoders round ink to light differently


def test_cmyk_tiff_is_read_as_ink() -> None:
    inks = [(0, 0, 0, 0), (0, 255, 255, 0), (255, 0, 0, 0), (0, 0, 0, 255)]
    image = Image.new("CMYK", (4, 1))
    image.putdata(inks)
    expected = [[[255, 255, 255], [255, 0, 0], [0, 255, 255], [0, 0, 0]]]
    assert decode_bytes(save(image, "TIFF"), "x").tolist() == expected


@pytest.mark.parametrize("ending", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_samples_are_scaled_and_not_clipped(sample: Pixels, ending: str, channels: int) -> None:
    bgra = np.dstack([sample[..., ::-1], np.full(sample.shape[:2], 255, np.uint8)])
    wide = (bgra[..., 0] if channels == 1 else bgra[..., :channels]).astype(np.uint16) * 257
    data = cv2.imencode(ending, wide)[1].tobytes()
    expected = np.dstack([sample[..., 2]] * 3) if channels == 1 else sample
    assert np.array_equal(decode_bytes(data, "x"), expected)


def test_wide_grey_tiffs_are_scaled_by_their_bits_and_their_white() -> None:
    assert grey(tiff(3, 16, struct.pack("<3H", 0, 0x80FF, 0xFFFF))) == [0, 128, 255]
    assert grey(tiff(3, 16, struct.pack("<3H", 0, 0x80FF, 0xFFFF), white_is_zero=True)) == [255, 127, 0]
    assert grey(tiff(2, 12, bytes([0xFF, 0xF8, 0x00]))) == [255, 128]


def test_samples_without_a_scale_are_refused() -> None:
    for kind in (np.float32, np.int32):
        with pytest.raises(DataError, match="no defined white level"):
            decode_bytes(save(Image.fromarray(np.ones((2, 2), kind)), "TIFF"), "x")


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_the_first_frame_of_an_animation_is_taken(kind: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue", "lime")]
    data = save(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(decode_bytes(data, "x"), np.asarray(frames[0]))


def test_colour_profiles_are_ignored(sample: Pixels) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert np.array_equal(decode_bytes(save(sample, "PNG", icc_profile=profile), "x"), sample)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"\0", "not a known image format"),
        (b"path,label\n1.png,real\n", "not a known image format"),
        (b"<?xml version='1.0'?>\n<!-- made by hand -->\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is not"),
        (b"\n<!DOCTYPE html><html><svg></svg></html>", "HTML is not"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF is not"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41isom", "video is not"),
        (b"P6 1 1 255 abc", "PPM is not"),
        (b"\xff\xd8\xff", "JPEG cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n", "PNG cannot be decoded"),
        (b"BM", "BMP cannot be decoded"),
        (png(0, 0, 8, 0, b""), "PNG cannot be decoded"),
        (png(10_001, 10_000, 8, 0, b""), "more than 50 million pixels"),
        (png(100_000, 100_000, 8, 0, b""), "more than 50 million pixels"),
        (png(2, 2, 8, 0, b"\0\0")[:-16], "PNG cannot be decoded"),
    ],
)
def test_unusable_content_is_refused_with_name_and_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        decode_bytes(data, "folder/some file")
    assert caught.value.lines[0].startswith("folder/some file: ")
    assert reason in caught.value.lines[0]
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("kind", ["ICO", "PPM", "JPEG2000", "TGA", "PDF", "ICNS"])
def test_formats_off_the_list_are_refused(kind: str) -> None:
    with pytest.raises(DataError, match=r"not supported|not a known"):
        decode_bytes(save(Image.new("RGB", (32, 32)), kind), "x")


@pytest.mark.parametrize(
    ("kind", "options"),
    [*LOSSLESS, ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("GIF", {}), ("AVIF", {})],
)
def test_a_truncated_file_is_refused_and_never_decoded_to_other_pixels(
    sample: Pixels, kind: str, options: dict[str, Any]
) -> None:
    data = save(sample, kind, **options)
    whole = decode_bytes(data, "x")
    for length in [*range(1, len(data) - 4, 37), len(data) // 2, len(data) - 5]:
        with pytest.raises(DataError):
            decode_bytes(data[:length], "x")
    for length in range(len(data) - 4, len(data)):  # only the closing mark is missing
        try:
            assert np.array_equal(decode_bytes(data[:length], "x"), whole)
        except DataError:
            continue


def test_a_file_whose_end_was_never_written_is_refused(sample: Pixels) -> None:
    thumbnail = b"Exif\0\0" + save(sample, "JPEG")  # its end of image must not be taken for the image's
    for data in (save(sample, "JPEG", exif=thumbnail), save(sample, "PNG")):
        half = len(data) - 300
        with pytest.raises(DataError):
            decode_bytes(data[:half] + bytes(len(data) - half), "x")


@pytest.mark.parametrize(
    ("kind", "options"), [("WEBP", {}), ("WEBP", {"lossless": True}), ("WEBP", {"method": 0}), ("AVIF", {})]
)
def test_zeros_of_a_download_that_was_cut_short_are_refused_and_those_of_an_image_are_not(
    kind: str, options: dict[str, Any]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    pixels[96:] = 255  # of which method 0 makes about a thousand zeros
    data = save(pixels, kind, **options)
    whole = decode_bytes(data, "x")
    assert kind == "AVIF" or np.array_equal(decode_bytes(data + bytes(1000), "x"), whole)
    assert (not any(data[-64:])) == ("method" in options)
    for part in (0.1, 0.3, 0.6):
        length = int(part * len(data.rstrip(b"\0")))
        with pytest.raises(DataError, match=r"it ends in 64 zeros or more|failed to read"):
            decode_bytes(data[:length] + bytes(len(data) - length), "x")


def test_flipped_bits_give_pixels_or_a_reason_and_nothing_else(sample: Pixels) -> None:
    generator = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "TIFF"):
        data = save(sample, kind)
        for _ in range(40):
            broken = bytearray(data)
            for place in generator.integers(0, min(len(data), 400), 4):
                broken[place] = generator.integers(256)
            try:
                assert decode_bytes(bytes(broken), "x").ndim == 3
            except DataError:
                continue


def test_limits_hold_to_the_pixel_and_byte(sample: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(save(sample, "PNG"))
    monkeypatch.setattr(module, "MAX_IMAGE_PIXELS", 24 * 40)
    monkeypatch.setattr(module, "MAX_IMAGE_BYTES", file.stat().st_size)
    assert decode(file).shape == sample.shape
    monkeypatch.setattr(module, "MAX_IMAGE_PIXELS", 24 * 40 - 1)
    with pytest.raises(DataError, match=r"million pixels \(40 x 24\)"):
        decode(file)
    monkeypatch.setattr(module, "MAX_IMAGE_BYTES", file.stat().st_size - 1)
    with pytest.raises(DataError, match="larger than"):
        decode(file)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for file in (tmp_path, tmp_path / "pipe.png", Path(os.devnull)):
        with pytest.raises(DataError, match="not a regular file"):
            decode(file)


def test_what_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="No such file"):
        decode(tmp_path / "missing.png")
    with pytest.raises(DataError, match="cannot be read"):
        decode(Path("nul\0.png"))
    (tmp_path / "a.png").write_bytes(b"x")

    def deny(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", deny)
    with pytest.raises(DataError, match=r"a\.png: cannot be read: Permission denied"):
        decode(tmp_path / "a.png")


def test_nothing_is_written_to_stderr(sample: Pixels, tmp_path: Path) -> None:
    data = save(sample, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    (tmp_path / "a.jpg").write_bytes(data)
    (tmp_path / "b.jpg").write_bytes(data[:-40] + b"\x12\x34" + data[-40:])
    code = (
        "import sys; from pathlib import Path; from PIL import Image; from avatar_bench.data.decoding import decode\n"
        "Image.MAX_IMAGE_PIXELS = 900\n"  # the image's 960 are then worth a DecompressionBombWarning
        "for file in sys.argv[1:]: assert decode(Path(file)).shape == (24, 40, 3)"
    )
    command = [sys.executable, "-W", "always", "-c", code, str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_truncated_images_stay_errors_in_pillow() -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_suffixes_are_lower_case_with_a_dot() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif", ".tif", ".tiff"} <= SUFFIXES
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in SUFFIXES)


@pytest.mark.shared
@pytest.mark.skipif(not RAW.is_dir(), reason="the shared images are not here")
def test_of_the_shared_images_exactly_seven_are_refused() -> None:
    refused = set()
    for file in RAW.iterdir():
        try:
            decode(file)
        except DataError:
            refused.add(file.name)
    assert len(list(RAW.iterdir())) == 69
    assert refused == REFUSED


@pytest.mark.shared
@pytest.mark.skipif(not RAW.is_dir(), reason="the shared images are not here")
def test_shared_images_of_one_scene_decode_alike() -> None:
    hopper = decode(RAW / "pillow__hopper.png").astype(float)
    for name in ("bmp", "tif", "gif", "webp"):
        assert np.abs(decode(RAW / f"pillow__hopper.{name}") - hopper).mean() < 8, name
    for name in ("hopper_orientation_3.webp", "hopper_orientation_6.jpg", "avif_hopper.avif"):
        assert np.abs(decode(RAW / f"pillow__{name}") - hopper).mean() < 8, name
    inks = decode(RAW / "pillow__pil_sample_cmyk.jpg"), decode(RAW / "pillow__tiff_strip_cmyk_jpeg.tif")
    assert difference(*inks) <= 40


def test_what_is_transparent_takes_the_colour_of_the_ground():
    for mode in ("RGBA", "LA", "P"):
        image = Image.new(mode, (4, 4))
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **({"transparency": 0} if mode == "P" else {}))
        assert (decode_bytes(buffer.getvalue(), "x", ground="#0000ff") == (0, 0, 255)).all()
        assert (decode_bytes(buffer.getvalue(), "x") == 255).all()


def test_a_lack_of_memory_is_no_fault_of_the_file(sample: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    def lack(*given: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("avatar_bench.data.decoding._to_rgb", lack)
    with pytest.raises(MemoryError):
        decode_bytes(save(sample, "PNG"), "a.png")
