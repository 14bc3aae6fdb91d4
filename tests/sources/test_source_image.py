"""Tests of an image on its way into a data set."""

from pathlib import Path

import numpy as np
import pytest

from avatar_bench.sources.source_image import SourceImage, crop_square


def test_without_a_box_the_image_stays_whole():
    image = np.zeros((10, 30, 3), np.uint8)
    assert crop_square(image) is image


def test_a_box_names_left_top_and_side_as_shares():
    image = np.zeros((100, 200, 3), np.uint8)
    image[50:90, 20:60] = 255
    assert crop_square(image, (0.1, 0.5, 0.2)).shape == (40, 40, 3)
    assert crop_square(image, (0.1, 0.5, 0.2)).min() == 255


@pytest.mark.parametrize("box", [(0.9, 0.9, 0.5), (0, 0, 1), (0, 0, 0)])
def test_a_box_is_moved_to_lie_within_the_image(box):
    height, width, _ = crop_square(np.zeros((100, 200, 3), np.uint8), box).shape
    assert 1 <= width == height <= 100


def test_the_content_is_read_from_where_it_lies(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"bytes")
    assert SourceImage("a.png", tmp_path / "a.png").read() == SourceImage("a.png", b"bytes").read() == b"bytes"
