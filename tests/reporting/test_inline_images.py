"""Figures made small: their size, their ground, and what happens where room is short."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avatar_bench.reporting.inline_images import inline_figures, shrink


@pytest.fixture
def figures(tmp_path: Path) -> list[Path]:
    """Return five figures of noise, which take many bytes."""
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{k}.png" for k in range(5)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(file)
    return files


def test_a_figure_becomes_webp_of_the_width(figures: list[Path]) -> None:
    small = shrink(figures[0], 200, 60)
    assert small is not None
    assert (small.width, small.height) == (200, 150)
    head, _, data = small.data_url.partition(",")
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (image.format, image.size) == ("WEBP", (200, 150))


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    small = shrink(tmp_path / "clear.png", 20, 90)
    assert small is not None
    with Image.open(io.BytesIO(small.data)) as image:
        assert min(image.convert("RGB").getpixel((10, 10))) > 250  # type: ignore[type-var, arg-type]


def test_all_are_kept_where_there_is_room(figures: list[Path]) -> None:
    assert set(inline_figures(figures)) == set(figures)


def test_the_budget_is_kept_and_the_last_are_left_out(figures: list[Path]) -> None:
    full = sum(len(one.data) for one in inline_figures(figures).values())
    for budget in (full, full // 2, full // 4, 0):
        kept = inline_figures(figures, budget)
        assert sum(len(one.data) for one in kept.values()) <= budget
    few = inline_figures(figures, full // 4)
    assert 0 < len(few) < len(figures)
    assert list(few) == figures[: len(few)]


def test_no_more_are_made_than_are_looked_at(figures: list[Path]) -> None:
    assert list(inline_figures(figures, most=2)) == figures[:2]


def test_a_figure_that_occurs_again_is_left_out(figures: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / "twin.png"
    shutil.copy(figures[0], twin)
    assert list(inline_figures([figures[0], twin])) == [figures[0]]


def test_what_cannot_be_read_is_left_out(figures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert set(inline_figures([*figures, tmp_path / "broken.png", tmp_path / "gone.png"])) == set(figures)
