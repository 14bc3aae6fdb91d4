"""Tests of avatar_bench.data.decoding: orientation, limits and what is unreadable; formats: test_odd_images.py."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from avatar_bench.data import decoding as module
from avatar_bench.data.decoding import decode, decode_bytes
from avatar_bench.errors import DataError
from tests.data.image_writers import png
from tests.data.odd_images import RGB, save

# pytest resets the filter that decoding.py sets when it is imported; a subprocess of test_odd_images.py checks it.
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


def difference(first: Pixels, second: Pixels) -> int:
    assert first.shape == second.shape
    return int(np.abs(first.astype(int) - second).max())


@pytest.mark.parametrize("orientation", STORED_FROM)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    rows, columns = STORED_FROM[orientation]
    stored = RGB if rows in ("top", "bottom") else RGB.transpose(1, 0, 2)
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
    assert difference(upright, RGB) <= (8 if kind in ("JPEG", "AVIF") else 0)


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    assert np.array_equal(decode_bytes(save(RGB, "PNG", exif=exif), "x"), RGB)


def test_the_result_is_writable_and_contiguous() -> None:
    for data in (save(RGB, "PNG"), save(RGB, "JPEG"), save(RGB[..., 0], "PNG")):
        pixels = decode_bytes(data, "x")
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous


def test_the_transparent_colour_of_a_png_of_16_bits_is_white() -> None:
    grey = png(np.array([[[1000], [1001], [60000]]]), 16, 0, [(b"tRNS", struct.pack(">H", 1000))])
    assert decode_bytes(grey, "x")[..., 0].tolist() == [[255, 3, 234]]
    colours = np.array([[[256, 512, 768], [256, 512, 60000]]])
    rgb = png(colours, 16, 2, [(b"tRNS", struct.pack(">3H", 256, 512, 768))])
    assert decode_bytes(rgb, "x").tolist() == [[[255, 255, 255], [1, 2, 234]]]


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


def test_limits_hold_to_the_pixel_and_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(save(RGB, "PNG"))
    monkeypatch.setattr(module, "MAX_IMAGE_PIXELS", 24 * 40)
    monkeypatch.setattr(module, "MAX_IMAGE_BYTES", file.stat().st_size)
    assert decode(file).shape == RGB.shape
    monkeypatch.setattr(module, "MAX_IMAGE_PIXELS", 24 * 40 - 1)
    with pytest.raises(DataError, match=r"million pixels \(40 x 24\)"):
        decode(file)
    monkeypatch.setattr(module, "MAX_IMAGE_BYTES", file.stat().st_size - 1)
    with pytest.raises(DataError, match="larger than"):
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


def test_what_is_transparent_takes_the_colour_of_the_ground():
    for mode in ("RGBA", "LA", "P"):
        image = Image.new(mode, (4, 4))
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **({"transparency": 0} if mode == "P" else {}))
        assert (decode_bytes(buffer.getvalue(), "x", ground="#0000ff") == (0, 0, 255)).all()
        assert (decode_bytes(buffer.getvalue(), "x") == 255).all()


def test_a_lack_of_memory_is_no_fault_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def lack(*given: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("avatar_bench.data.decoding._to_rgb", lack)
    with pytest.raises(MemoryError):
        decode_bytes(save(RGB, "PNG"), "a.png")
