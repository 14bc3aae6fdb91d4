"""Decoding against other libraries; the pixels and reasons of odd files are tested in test_odd_images.py."""

import os
from itertools import product
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from avatar_bench.data import decoding as module
from avatar_bench.data.decoding import decode, decode_bytes
from avatar_bench.errors import DataError
from tests.builders.pixels import encode
from tests.data.odd_images import ALPHA, RGB, encoded, opencv

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RAW = Path(__file__).parents[3] / "shared" / "data" / "raw"
REFUSED = {f"drawing-langflow__People Avatar-{name}.svg" for name in ("01-23", "02-13")}
REFUSED |= {f"pillow__{name}" for name in ("hopper.ico", "hopper.ppm", "hopper_1bit.pbm")}
REFUSED |= {"pillow__truncated_image.png", "pillow__truncated_jpeg.jpg"}
LOSSLESS = [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {})]
LOSSLESS += [("TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate")]
# EXIF 2.3, tag 274: which side of the upright image the stored rows and columns begin at; others are ignored
STORED_FROM = ["top left", "top left", "top right", "bottom right", "bottom left"]
STORED_FROM += ["left top", "right top", "right bottom", "left bottom"]


def difference(first, second):
    assert first.shape == second.shape
    return int(np.abs(first.astype(int) - second).max())


def test_lossless_formats_give_back_the_pixels_with_a_full_alpha_channel_too():
    opaque = np.dstack([RGB, np.full_like(ALPHA, 255)])
    for kind, options in LOSSLESS:
        for pixels in (RGB, opaque) if kind != "BMP" else (RGB,):
            assert np.array_equal(decode_bytes(encode(pixels, kind, **options), "x"), RGB)


def test_jpeg_gives_the_pixels_of_an_independent_decoder():
    kinds = [{"subsampling": colour, "progressive": order} for colour, order in product((0, 1, 2), (False, True))]
    for options in (*kinds, {"keep_rgb": True}):
        data = encode(RGB, "JPEG", quality=80, **options)
        assert difference(decode_bytes(data, "x"), opencv(data)) <= 1  # equal with libjpeg-turbo in both


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied_once(kind):
    options = {"JPEG": {"subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"subsampling": "4:4:4"}}
    options = options.get(kind, {}) | ({"quality": 100} if kind in ("JPEG", "AVIF") else {})
    for orientation, sides in (*enumerate(STORED_FROM), (60000, "top left")):
        rows, columns = sides.split()
        stored = RGB if rows in ("top", "bottom") else RGB.transpose(1, 0, 2)
        stored = stored[::-1] if rows in ("bottom", "right") else stored
        stored = stored[:, ::-1] if columns in ("bottom", "right") else stored
        exif = Image.Exif()
        exif[274] = orientation
        upright = decode_bytes(encode(np.ascontiguousarray(stored), kind, exif=exif, **options), "x")
        assert difference(upright, RGB) <= (8 if kind in ("JPEG", "AVIF") else 0)


def test_grey_one_bit_and_palette_images_become_rgb():
    grey = Image.fromarray(RGB[..., 0])
    images = grey, grey.convert("1"), Image.fromarray(RGB).quantize(64)
    for image, kind in product(images, ("PNG", "BMP", "TIFF", "GIF")):
        assert np.array_equal(decode_bytes(encode(image, kind), "x"), np.asarray(image.convert("RGB")))


def test_transparent_pixels_take_the_colour_of_the_ground():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 0])
    image.putdata([0, 1, 2])
    image = image.convert("PA")
    image.putalpha(Image.fromarray(np.array([[255, 0, 255]], np.uint8)))
    assert decode_bytes(encode(image, "TIFF"), "x").tolist() == [[[10, 20, 30], [255, 255, 255], [0, 0, 0]]]
    for mode in ["RGBA", "LA", "P"]:
        data = encode(Image.new(mode, (4, 4)), "PNG", **({"transparency": 0} if mode == "P" else {}))
        assert (decode_bytes(data, "x", ground="#0000ff") == (0, 0, 255)).all()


LOSSY = [("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("GIF", {}), ("AVIF", {})]


@pytest.mark.parametrize(("kind", "options"), LOSSLESS + LOSSY)
def test_a_truncated_file_is_refused_and_never_decoded_to_other_pixels(kind, options):
    data = encode(RGB, kind, **options)
    whole = decode_bytes(data, "x")
    for length in [*range(1, len(data) - 4, 37), len(data) // 2, len(data) - 5]:
        with pytest.raises(DataError):
            decode_bytes(data[:length], "x")
    for length in range(len(data) - 4, len(data)):  # only the closing mark is missing
        try:
            assert np.array_equal(decode_bytes(data[:length], "x"), whole)
        except DataError:
            continue


def test_an_end_that_was_never_written_is_refused_and_zeros_of_an_image_are_not():
    for data in [encode(RGB, "PNG"), encoded()]:
        with pytest.raises(DataError):
            decode_bytes(data[:-300] + bytes(300), "x")
    for kind, options in [("WEBP", {}), ("WEBP", {"lossless": True}), ("WEBP", {"method": 0}), ("AVIF", {})]:
        pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        pixels[96:] = 255  # of which method 0 makes about a thousand zeros
        data = encode(pixels, kind, **options)
        whole = decode_bytes(data, "x")
        assert kind == "AVIF" or np.array_equal(decode_bytes(data + bytes(1000), "x"), whole)
        assert (not any(data[-64:])) == ("method" in options)
        for part in (0.1, 0.3, 0.6):
            length = int(part * len(data.rstrip(b"\0")))
            with pytest.raises(DataError, match=r"it ends in 64 zeros or more|failed to read"):
                decode_bytes(data[:length] + bytes(len(data) - length), "x")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True, "restart_marker_rows": 1}])
@pytest.mark.parametrize("noise", [True, False])
def test_a_jpeg_is_refused_whose_pixels_are_zeros_or_missing_before_its_end(options, noise):
    values = np.random.default_rng(0).integers(0, 256, (160, 160, 3)) if noise else np.full((160, 160, 3), 90)
    values[:16, :16] = 200
    data = encode(values.astype(np.uint8), "JPEG", **options)
    whole = decode_bytes(data, "x")
    assert difference(whole, opencv(data)) <= 1
    assert np.array_equal(decode_bytes(data + bytes(1000), "x"), whole)  # what is behind its end is no part of it
    for lost in (len(data) // 8, len(data) // 4) if noise else (100,):
        with pytest.raises(DataError, match="truncated"):
            decode_bytes(data[:-lost] + bytes(lost - 2) + data[-2:], "x")
        if "progressive" not in options:  # of which later scans may be missing
            with pytest.raises(DataError, match="truncated"):
                decode_bytes(data[:-lost] + data[-2:], "x")


def test_zeros_that_a_jpeg_of_one_colour_ends_in_are_its_own():
    pixels = np.full((1500, 1500, 3), 255, np.uint8)
    pixels[:64, :64] = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    data = encode(pixels, "JPEG", optimize=True)
    assert not any(data[-80:-3])
    assert difference(decode_bytes(data, "x"), opencv(data)) <= 1


def test_limits_hold_to_the_pixel_and_byte(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    file.write_bytes(encode(RGB, "PNG"))
    monkeypatch.setattr(module, "MAX_IMAGE_PIXELS", 24 * 40)
    monkeypatch.setattr(module, "MAX_IMAGE_BYTES", file.stat().st_size)
    assert decode(file).shape == RGB.shape
    monkeypatch.setattr(module, "MAX_IMAGE_PIXELS", 24 * 40 - 1)
    with pytest.raises(DataError, match=r"million pixels \(40 x 24\)"):
        decode(file)
    monkeypatch.setattr(module, "MAX_IMAGE_BYTES", file.stat().st_size - 1)
    with pytest.raises(DataError, match="larger than"):
        decode(file)


def test_what_cannot_be_read_is_refused_and_a_lack_of_memory_is_no_fault_of_the_file(tmp_path, monkeypatch):
    for file, reason in (
        (tmp_path, "not a regular file"),
        (Path(os.devnull), "not a regular file"),
        (tmp_path / "missing.png", "cannot be read: No such file"),
        (Path("nul\0.png"), "cannot be read"),
    ):
        with pytest.raises(DataError, match=reason):
            decode(file)
    (tmp_path / "a.png").write_bytes(b"x")
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(DataError, match=r"a\.png: cannot be read: Permission denied"):
        decode(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        decode_bytes(encode(RGB, "PNG"), "a.png")


@pytest.mark.shared
@pytest.mark.skipif(not RAW.is_dir(), reason="the shared images are not here")
def test_of_the_shared_images_exactly_seven_are_refused_and_those_of_one_scene_decode_alike():
    decoded = {}
    for file in RAW.iterdir():
        try:
            decoded[file.name] = decode(file).astype(float)
        except DataError:
            assert file.name in REFUSED
    assert len(decoded) == 69 - len(REFUSED)
    scene = ("hopper.bmp", "hopper.tif", "hopper.gif", "hopper.webp", "avif_hopper.avif")
    for name in (*scene, "hopper_orientation_3.webp", "hopper_orientation_6.jpg"):
        assert np.abs(decoded[f"pillow__{name}"] - decoded["pillow__hopper.png"]).mean() < 8, name
    inks = decoded["pillow__pil_sample_cmyk.jpg"] - decoded["pillow__tiff_strip_cmyk_jpeg.tif"]
    assert np.abs(inks).max() <= 40
