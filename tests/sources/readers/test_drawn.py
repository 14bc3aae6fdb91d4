"""Tests of drawn avatars as a source."""

import pytest

from avatar_bench.sources.readers.drawn import DRAWN_READER
from avatar_bench.sources.readers.reader import SourceJob


def test_avatars_that_are_stored_are_not_drawn_again(tmp_path):
    pytest.importorskip("multiavatar")
    source = {"kind": "drawn", "drawer": "multiavatar", "count": 3}
    names = [one.name for one in DRAWN_READER.read(SourceJob("own", source, tmp_path))]
    assert names == ["000.svg", "001.svg", "002.svg"]
    assert [one.name for one in DRAWN_READER.read(SourceJob("own", source, tmp_path, {"001.svg"}))] == [
        "000.svg",
        "002.svg",
    ]
