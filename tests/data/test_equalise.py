"""Tests of avatar_bench.data.equalise: one encoding for all, which depends on the pixels alone."""

import io
from itertools import product

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chisquare

from avatar_bench.data import equalise
from avatar_bench.data.decoding import decode
from tests.builders.pixels import encode, make_noise, make_smooth


@pytest.mark.parametrize("resize", equalise.RESIZE_MODES)
def test_equal_pixels_give_equal_bytes_of_a_jpeg_of_the_drawn_side_and_quality(resize, tmp_path):
    image = make_smooth(1, 120, 90)
    side, quality = equalise.draw_side_and_quality(image)
    with Image.open(io.BytesIO(equalise.equalise_bytes(image, resize))) as jpeg:
        assert (jpeg.format, jpeg.size, jpeg.mode) == ("JPEG", (side, side), "RGB")
        assert [layer[1:3] for layer in jpeg.layer] == [(2, 2), (1, 1), (1, 1)]
        with Image.open(io.BytesIO(encode(Image.new("RGB", (8, 8)), "JPEG", quality=quality))) as reference:
            assert jpeg.quantization == reference.quantization
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=60)
    with Image.open(tmp_path / "a.jpg") as jpeg:
        jpeg.save(tmp_path / "b.png")
    first, second = (equalise.equalise_bytes(decode(tmp_path / name), resize) for name in ("a.jpg", "b.png"))
    assert first == second


@pytest.mark.parametrize("make", [make_noise, make_smooth])
def test_sides_and_qualities_are_drawn_evenly_whatever_the_class(make):
    drawn = [equalise.draw_side_and_quality(make(seed, 24, 24)) for seed in range(2000)]
    cells = product(equalise.EQUALISED_SIDES, equalise.EQUALISED_QUALITIES)
    table = np.array([drawn.count(cell) for cell in cells]).reshape(len(equalise.EQUALISED_SIDES), -1)
    assert table.sum() == 2000
    for counts in (table.sum(axis=0), table.sum(axis=1), table.ravel()):
        assert chisquare(counts).pvalue > 0.001
