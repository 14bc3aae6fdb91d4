"""Tests of how pictures are cut and encoded."""

import io

import pytest
from PIL import Image

from avatar_bench.data.pictures import QUALITIES, SIDES, Picture, cut, encode, flatten


def picture(size, mode="RGB", colour="red"):
    return Picture(name="p", image=Image.new(mode, size, colour), sha256="")


def test_without_a_box_the_central_square_is_kept():
    image = Image.new("RGB", (30, 10), "white")
    image.paste("red", (10, 0, 20, 10))
    assert cut(image).getcolors() == [(100, (255, 0, 0))]


def test_a_box_names_left_top_and_side_as_shares():
    image = Image.new("RGB", (200, 100), "white")
    image.paste("red", (20, 50, 60, 90))
    assert cut(image, (0.1, 0.5, 0.2)).getcolors() == [(1600, (255, 0, 0))]


@pytest.mark.parametrize("box", [(0.9, 0.9, 0.5), (0, 0, 1), (0, 0, 0)])
def test_a_box_is_moved_to_lie_within_the_picture(box):
    square = cut(Image.new("RGB", (200, 100)), box)
    assert square.width == square.height <= 100


def test_what_is_transparent_takes_the_colour_of_the_ground():
    assert flatten(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), "blue").getpixel((0, 0)) == (0, 0, 255)
    palette = Image.new("P", (1, 1))
    palette.info["transparency"] = 0
    assert flatten(palette, "blue").getpixel((0, 0)) == (0, 0, 255)


def test_no_picture_is_made_larger():
    assert {encode(picture((50, 70)), str(seed)).side for seed in range(20)} == {50}


def test_sides_and_qualities_come_from_the_seed_alone():
    drawn = [encode(picture((300, 300)), str(seed)) for seed in range(200)]
    assert {one.side for one in drawn} == set(SIDES)
    assert {one.quality for one in drawn} == set(QUALITIES)
    assert encode(picture((300, 300)), "7") == drawn[7]
    assert Image.open(io.BytesIO(drawn[7].data)).size == (drawn[7].side, drawn[7].side)
