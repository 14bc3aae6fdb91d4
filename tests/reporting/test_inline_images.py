"""Figures made small: their size, their ground, and what happens where room is short."""

import base64
import io
import shutil

import numpy as np
import pytest
from PIL import Image

from avatar_bench.reporting.inline_images import inline_figures, shrink


@pytest.fixture
def figures(tmp_path):
    """Return five figures of noise, which take many bytes."""
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{k}.png" for k in range(5)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (150, 200, 3), dtype=np.uint8)).save(file)
    return files


def test_a_figure_becomes_webp_of_the_width_and_what_is_transparent_white(figures, tmp_path):
    small = shrink(figures[0], 100, 60)
    assert (small.width, small.height) == (100, 75)
    head, _, data = small.data_url.partition(",")
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (image.format, image.size) == ("WEBP", (100, 75))
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    with Image.open(io.BytesIO(shrink(tmp_path / "clear.png", 20, 90).data)) as image:
        assert np.asarray(image.convert("RGB")).min() > 250


def test_the_budget_is_kept_and_the_last_are_left_out_like_those_that_occur_again_or_cannot_be_read(figures, tmp_path):
    inlined = inline_figures(figures)
    assert list(inlined) == figures
    full = sum(len(small.data) for small in inlined.values())
    for budget in (full, full // 2, full // 4, 0):
        inlined = inline_figures(figures, budget)
        assert sum(len(small.data) for small in inlined.values()) <= budget
        assert list(inlined) == figures[: len(inlined)]
    assert 0 < len(inline_figures(figures, full // 4)) < len(figures)
    assert len(inline_figures(figures, full // 2)) > 2  # half of all has room for more where they are made smaller
    assert list(inline_figures(figures, most=2)) == figures[:2]
    twin, broken = tmp_path / "twin.png", tmp_path / "broken.png"
    shutil.copy(figures[0], twin)
    broken.write_bytes(b"no image")
    assert list(inline_figures([figures[0], twin, broken, tmp_path / "gone.png", figures[1]])) == figures[:2]
