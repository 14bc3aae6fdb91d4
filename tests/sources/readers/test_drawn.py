"""Tests of drawn avatars as a source."""

import pytest

from avatar_bench.sources.reader import SourceJob
from avatar_bench.sources.readers.drawn import DrawnImages


def test_avatars_that_are_stored_are_not_drawn_again(tmp_path):
    pytest.importorskip("multiavatar")
    source = DrawnImages(drawer="multiavatar", count=3)
    names = [one.name for one in source.read(SourceJob("own", {}, tmp_path))]
    assert names == ["000.svg", "001.svg", "002.svg"]
    assert [one.name for one in source.read(SourceJob("own", {}, tmp_path, {"001.svg"}))] == [
        "000.svg",
        "002.svg",
    ]
