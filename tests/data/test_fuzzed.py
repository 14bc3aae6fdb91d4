"""Fuzz tests of the image loader and the reader of manifests: the result or a DataError, and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_bench.console.terminal import escape_control_characters
from avatar_bench.data.dataset import Dataset, read_manifest
from avatar_bench.data.decoding import decode_bytes
from avatar_bench.errors import DataError
from tests.data.image_writers import chunk
from tests.data.odd_images import RGB, corpus, encoded, save

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
    pytest.mark.filterwarnings("ignore::pandas.errors.ParserWarning"),
]

SHORT = settings(max_examples=100, deadline=None, derandomize=True, database=None)

Result = TypeVar("Result")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "TIFF")


@cache
def valid() -> list[bytes]:
    """Return small valid images of every format, those of the corpus among them."""
    odd = [odd.data for odd in corpus().values() if odd.pixels is not None and len(odd.data) < 9000]
    return [save(RGB, kind) for kind in FORMATS] + [encoded()] + odd


@st.composite
def broken_images(draw: st.DrawFn) -> bytes:
    """Take a valid image; change, cut and put in some bytes, or cut its end; a PNG may get right sums again."""
    data = bytearray(draw(st.sampled_from(valid())))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        near = place % min(len(data) or 1, 200) if draw(st.booleans()) else place  # headers are where the tricks are
        new = draw(st.binary(max_size=6) | st.sampled_from([b"\xff" * 4, bytes(4), b"\xff\xda", b"\x7f\xff\xff\xff"]))
        old = draw(st.sampled_from([0, len(new), len(new), 40]))
        data[near : near + old] = new
    if draw(st.booleans()):
        data = data[: draw(st.integers(0, len(data)))]
    return _with_right_sums(bytes(data)) if draw(st.booleans()) else bytes(data)


def _with_right_sums(data: bytes) -> bytes:
    """Write the CRC of each chunk of a PNG anew, so that what is behind it is reached; others stay as they are."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    start, parts = 8, [data[:8]]
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4])
        parts.append(chunk(data[start + 4 : start + 8], data[start + 8 : start + 8 + length]))
        start += 12 + length
    return b"".join(parts)


def check_image(data: bytes) -> None:
    pixels = result(lambda: decode_bytes(data, "fuzzed"))
    if isinstance(pixels, DataError):
        assert pixels.lines[0].startswith("fuzzed: ")
    else:
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert pixels.dtype == np.uint8
        assert pixels.size


def result(make: Callable[[], Result]) -> Result | DataError:
    try:
        return make()
    except DataError as error:
        found = error
    assert 1 <= len(found.lines) <= 3
    assert all(len(line) < 1000 and escape_control_characters(line) == line for line in found.lines)
    return found


HEADINGS = st.lists(st.sampled_from(["path", "label", "split", "fold", "group", "sha256", "x", '"', ""]), max_size=6)
CELLS = st.sampled_from(
    [
        "a.png",
        "./a.png",
        "../a.png",
        "/dev/zero",
        "/",
        "",
        "NA",
        "train",
        "7",
        "-1",
        '"',
        "'",
        "=1+1",
        "a" * 5000,
        "\x1b[2J",
    ]
) | st.text(max_size=8)
ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n"])


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Return a CSV with known and odd headings and cells, in one of several encodings, perhaps cut."""
    heading = draw(st.just(["path", "label", "split"]) | HEADINGS)
    rows = draw(st.lists(st.lists(CELLS, max_size=5), max_size=5))
    end = draw(ENDS)
    text = end.join(",".join(row) for row in [heading, *rows])
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    data = text.encode(encoding, "replace")
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


@cache
def place() -> Path:
    """Return a folder with one image for manifests; the system cleans it up."""
    folder = Path(tempfile.mkdtemp())
    (folder / "a.png").write_bytes(save(RGB, "PNG"))
    return folder


def check_manifest(data: bytes) -> None:
    (place() / "m.csv").write_bytes(data)
    found = result(lambda: read_manifest(place() / "m.csv"))
    if isinstance(found, Dataset):
        assert len(found)
        assert all(found.file(row).is_file() for row in range(len(found)))


@SHORT
@given(broken_images())
def test_a_broken_image_gives_pixels_or_a_reason(data: bytes) -> None:
    check_image(data)


@SHORT
@given(tables() | st.binary(max_size=200))
def test_any_manifest_gives_a_set_or_a_reason(data: bytes) -> None:
    check_manifest(data)
