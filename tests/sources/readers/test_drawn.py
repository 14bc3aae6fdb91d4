"""Tests of drawn avatars as a source."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest

from avatar_bench.data.duplicates import ImageSet, find_matches
from avatar_bench.data.fingerprints import fingerprint_image
from avatar_bench.errors import DataError
from avatar_bench.sources.reader import SourceJob
from avatar_bench.sources.readers.drawn import DrawnImages
from avatar_bench.sources.store import rasterise


def draw(drawer, count, styles=None):
    return DrawnImages(drawer=drawer, count=count, styles=styles).read(SourceJob("own", {}, Path()))


def test_avatars_that_are_stored_are_not_drawn_again(tmp_path):
    pytest.importorskip("multiavatar")
    source = DrawnImages(drawer="multiavatar", count=3)
    names = [image.name for image in source.read(SourceJob("own", {}, tmp_path))]
    assert names == ["000.svg", "001.svg", "002.svg"]
    assert [image.name for image in source.read(SourceJob("own", {}, tmp_path, {"001.svg"}))] == ["000.svg", "002.svg"]


@pytest.mark.parametrize("drawer", ["python_avatars", "multiavatar"])
def test_each_drawer_draws_different_avatars_that_stay_the_same_and_leaves_global_random_numbers(drawer):
    pytest.importorskip(drawer)
    random.seed(1)
    before = random.getstate()
    first, again = (list(draw(drawer, 4)) for _ in range(2))
    assert random.getstate() == before
    assert len({image.content for image in first}) == 4
    assert first == again
    assert all(image.name.endswith(".svg") and image.content.startswith(b"<svg") for image in first)


@pytest.mark.parametrize(("drawer", "kinds"), [("icons", 18), ("textures", 6)])
def test_icons_and_textures_are_drawn_alike_each_time_and_unlike_each_other(drawer, kinds):
    pytest.importorskip("resvg_py")
    first, again = (list(draw(drawer, 36)) for _ in range(2))
    assert first == again
    assert len({image.name.partition("_")[2] for image in first}) == kinds
    images = [np.asarray(rasterise(image.content.decode(), 64).convert("RGB")) for image in first]
    assert all(image.std() > 4 for image in images)  # none is blank
    prints = [fingerprint_image(image) for image in images]
    keys = [str(number) for number in range(36)]
    assert not find_matches(ImageSet.of(keys, prints, images.__getitem__))


def test_a_missing_package_is_named_with_its_command_and_an_unknown_drawer_with_those_there_are(monkeypatch):
    monkeypatch.setitem(sys.modules, "multiavatar.multiavatar", None)
    with pytest.raises(DataError, match=r"multiavatar, which is not installed.*\n.*\[demo\]"):
        list(draw("multiavatar", 1))
    with pytest.raises(DataError, match="Expected one of dicebear, python_avatars, multiavatar, icons, textures"):
        draw("rembrandt", 1)
