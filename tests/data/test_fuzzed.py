"""Fuzz tests of the image loader: pixels or a DataError, and nothing else."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_bench.console.terminal import escape_control_characters
from avatar_bench.data.decoding import decode_bytes
from avatar_bench.errors import DataError
from tests.builders.pixels import encode
from tests.data.image_writers import chunk
from tests.data.odd_images import RGB, corpus, encoded

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "TIFF")


@cache
def valid():
    """Return small valid images of every format, those of the corpus among them."""
    odd = [odd.data for odd in corpus().values() if odd.pixels is not None and len(odd.data) < 9000]
    return [encode(RGB, kind) for kind in FORMATS] + [encoded()] + odd


@st.composite
def broken_images(draw):
    """Take a valid image; change, cut and put in some bytes, or cut its end; a PNG may get right sums again."""
    data = bytearray(draw(st.sampled_from(valid())))
    for _ in range(draw(st.integers(1, 6))):
        position = draw(st.integers(0, max(len(data) - 1, 0)))
        if draw(st.booleans()):  # headers are where the tricks are
            position %= min(len(data) or 1, 200)
        new = draw(st.binary(max_size=6) | st.sampled_from([b"\xff" * 4, bytes(4), b"\xff\xda", b"\x7f\xff\xff\xff"]))
        old = draw(st.sampled_from([0, len(new), len(new), 40]))
        data[position : position + old] = new
    if draw(st.booleans()):
        data = data[: draw(st.integers(0, len(data)))]
    return _with_right_sums(bytes(data)) if draw(st.booleans()) else bytes(data)


def _with_right_sums(data):
    """Write the CRC of each chunk of a PNG anew, so that what is behind it is reached; others stay as they are."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    start, parts = 8, [data[:8]]
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4])
        parts.append(chunk(data[start + 4 : start + 8], data[start + 8 : start + 8 + length]))
        start += 12 + length
    return b"".join(parts)


@settings(max_examples=100)
@given(broken_images())
def test_a_broken_image_gives_pixels_or_a_reason(data):
    refusal = None
    try:
        pixels = decode_bytes(data, "fuzzed")
    except DataError as error:
        refusal = error
    if refusal is None:
        assert (pixels.ndim, pixels.shape[2], pixels.dtype) == (3, 3, np.uint8)
        assert pixels.size
    else:
        assert refusal.lines[0].startswith("fuzzed: ")
        assert len(refusal.lines) <= 3
        assert all(len(line) < 1000 and escape_control_characters(line) == line for line in refusal.lines)
