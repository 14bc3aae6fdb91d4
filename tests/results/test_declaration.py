"""Tests of declarations: captions of figures whose names depend on data."""

from __future__ import annotations

import pytest

from avatar_bench.results.declaration import Declaration


@pytest.mark.parametrize(
    ("figure", "caption"),
    [
        ("wall", "All classes"),
        ("class_1_drawing", "Images of drawing"),
        ("class_12_a_b_2", "Images of a_b_2"),
        ("errors_of_a_b", "Errors of a_b"),
        ("class_1", "class 1"),
    ],
)
def test_a_caption_names_what_its_last_star_matches(figure: str, caption: str) -> None:
    figures = {"wall": "All classes", "class_*_*": "Images of {name}", "errors_of_*": "Errors of {name}"}
    assert Declaration("toy", figures=figures).find_caption(figure) == caption
