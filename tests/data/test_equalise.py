"""Tests of avatar_bench.data.equalise: one encoding for all, which depends on the pixels alone."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import chisquare

from avatar_bench.data.decoding import decode
from avatar_bench.data.equalise import (
    EQUALISED_QUALITIES,
    EQUALISED_SIDES,
    RESIZE_MODES,
    draw_side_and_quality,
    equalise,
    equalise_bytes,
)
from avatar_bench.data.transforms import Preprocessing

Pixels = NDArray[np.uint8]


def noise(seed: int, height: int = 40, width: int = 40) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(seed: int, height: int = 120, width: int = 90) -> Pixels:
    coarse = noise(seed, 5, 5)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


@pytest.mark.parametrize("resize", RESIZE_MODES)
def test_the_bytes_are_a_jpeg_of_the_drawn_side_and_quality_with_halved_colour(resize: str) -> None:
    image = smooth(1)
    side, quality = draw_side_and_quality(image)
    with Image.open(io.BytesIO(equalise_bytes(image, resize))) as made:
        assert (made.format, made.size, made.mode) == ("JPEG", (side, side), "RGB")
        assert [layer[1:3] for layer in made.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]
        again = io.BytesIO()
        Image.new("RGB", (8, 8)).save(again, "JPEG", quality=quality)
        again.seek(0)
        with Image.open(again) as reference:
            assert made.quantization == reference.quantization  # type: ignore[attr-defined]


def test_a_jpeg_and_a_png_of_equal_pixels_give_the_same_output(tmp_path: Path) -> None:
    Image.fromarray(smooth(3)).save(tmp_path / "a.jpg", quality=60)
    with Image.open(tmp_path / "a.jpg") as jpeg:
        jpeg.save(tmp_path / "b.png")
    assert equalise_bytes(decode(tmp_path / "a.jpg")) == equalise_bytes(decode(tmp_path / "b.png"))


@pytest.mark.parametrize("kind", [noise, smooth])
def test_sides_and_qualities_are_drawn_evenly_whatever_the_class(kind: type) -> None:
    drawn = [draw_side_and_quality(kind(seed, 24, 24)) for seed in range(2000)]
    table = np.array([[drawn.count((side, quality)) for quality in EQUALISED_QUALITIES] for side in EQUALISED_SIDES])
    assert table.sum() == 2000
    for counts in (table.sum(axis=0), table.sum(axis=1), table.ravel()):
        assert chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("resize", RESIZE_MODES)
def test_preprocessing_equalises_before_it_resizes(resize: str) -> None:
    plain = Preprocessing(48, resize, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    equal = Preprocessing(48, resize, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "jpeg")
    image = smooth(5)
    assert np.array_equal(equal(image), plain(equalise(image, resize)))
    assert not np.array_equal(equal(image), plain(image))
