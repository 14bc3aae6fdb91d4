"""Tests of avatar_bench.data.stamps: where a stamp lies, how far it shows, and its neutral patch."""

import numpy as np
import pytest

from avatar_bench.data.stamps import CORNERS, POSITIONS, STAMPS, paste_neutral, paste_stamp
from tests.builders.pixels import make_smooth


@pytest.mark.parametrize("kind", STAMPS)
@pytest.mark.parametrize("shape", [(120, 90), (64, 200), (7, 5), (1, 1)])
def test_a_stamp_and_its_neutral_patch_cover_the_same_pixels_of_any_image(kind, shape):
    black, white = np.zeros((*shape, 3), np.uint8), np.full((*shape, 3), 255, np.uint8)
    for position in POSITIONS:
        stamp = paste_stamp(black, kind, 1.0, 0.3, position, 5), paste_stamp(white, kind, 1.0, 0.3, position, 5)
        patch = paste_neutral(black, kind, 1.0, 0.3, position, 5), paste_neutral(white, kind, 1.0, 0.3, position, 5)
        covered, covered_by_patch = ((255 - (on_white - on_black)) for on_black, on_white in (stamp, patch))
        assert np.abs(covered.astype(int) - covered_by_patch).max() <= 1
        assert (covered.any(), stamp[0].shape) == (True, black.shape)
        assert (patch[0][covered_by_patch == 255] == 128).all()


def test_logos_frames_opacity_and_seeds_are_what_they_say_and_unknown_stamps_refused():
    image = make_smooth(1, 200, 100)
    for position in CORNERS:
        changed = np.any(paste_neutral(image, "logo", 1.0, 0.2, position, 0) != image, axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        top, left = (2 if "top" in position else 178), (2 if "left" in position else 78)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (top, top + 19, left, left + 19)
    image = make_smooth(2, 100, 160)
    framed = paste_stamp(image, "frame", 1.0, 0.4, "any", 0)
    assert np.array_equal(framed[5:-5, 5:-5], image[5:-5, 5:-5])
    assert (framed[:5] == framed[0, 0]).all()
    assert (framed[:, -5:] == framed[0, 0]).all()
    image = make_smooth(3, 96, 96)
    full, half, none = (paste_stamp(image, "pill", opacity, 0.3, "any", 7) for opacity in (1.0, 0.5, 0.0))
    assert np.array_equal(none, image)
    assert np.abs(half - (full.astype(float) + image) / 2).max() <= 1
    assert not np.array_equal(full, paste_stamp(image, "pill", 1.0, 0.3, "any", 8))
    assert np.array_equal(*(paste_stamp(image, "pill", 1.0, 0.3, "top_left", seed) for seed in (7, 8)))
    for kind, position in (("seal", "any"), ("pill", "middle")):
        with pytest.raises(ValueError, match="unknown stamp"):
            paste_stamp(make_smooth(1, 8, 8), kind, 1.0, 0.2, position, 0)
