"""Tests of the drawn avatars."""

import random
import sys

import pytest

from avatar_bench.data import drawings
from avatar_bench.errors import DataError


@pytest.mark.parametrize(("drawer", "package"), [("python_avatars", "python_avatars"), ("multiavatar", "multiavatar")])
def test_each_drawer_draws_different_avatars_that_stay_the_same(drawer, package):
    pytest.importorskip("resvg_py")
    pytest.importorskip(package)
    first, again = (list(drawings.draw(drawer, 4)) for _ in range(2))
    assert len({one.sha256 for one in first}) == 4
    assert [one.image.tobytes() for one in first] == [one.image.tobytes() for one in again]


def test_drawing_leaves_the_global_random_numbers_alone():
    pytest.importorskip("resvg_py")
    pytest.importorskip("python_avatars")
    random.seed(1)
    before = random.getstate()
    list(drawings.draw("python_avatars", 2))
    assert random.getstate() == before


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "multiavatar.multiavatar", None)
    with pytest.raises(DataError, match=r"multiavatar, which is not installed.*\n.*\[demo\]"):
        list(drawings.draw("multiavatar", 1))


def test_an_unknown_drawer_is_refused_with_those_there_are():
    with pytest.raises(DataError, match="Expected dicebear, python_avatars or multiavatar"):
        drawings.draw("rembrandt", 1)
