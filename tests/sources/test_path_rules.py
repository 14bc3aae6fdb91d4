"""Tests of the rules on paths."""

import glob
import re

import pytest

from avatar_bench.sources.path_rules import compile_rules, match_rules, translate_glob


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("*.jpg", ["a.jpg", ".jpg"], ["x/a.jpg", "a.jpg.png", "a_jpg"]),
        ("**/*.jpg", ["a.jpg", "x/a.jpg", "x/y/a.jpg"], ["a.png"]),
        ("faces/**", ["faces/a", "faces/b/c"], ["face/a", "faces", "my/faces/a"]),
        ("img?.[jp]*", ["img1.jpg", "img2.png"], ["img10.jpg", "img1.gif", "img/.jpg"]),
        ("[!a]x", ["bx"], ["ax", "/x"]),
        ("a+b(1).png", ["a+b(1).png"], ["aab1.png"]),
        ("x/**/y", ["x/y", "x/a/b/y"], ["xy", "x/ay"]),
    ],
)
def test_a_glob_fits_whole_paths(pattern, fits, fits_not):
    compiled = re.compile(translate_glob(pattern))
    assert [path for path in fits if not compiled.fullmatch(path)] == []
    assert [path for path in fits_not if compiled.fullmatch(path)] == []


@pytest.mark.skipif(not hasattr(glob, "translate"), reason="the standard library translates globs since Python 3.13")
@pytest.mark.parametrize("pattern", ["*.jpg", "**/*.jpg", "a/*/b?.png", "[ab]/x", "[!ab]x/y"])
def test_globs_mean_what_the_standard_library_means(pattern):
    theirs = re.compile(glob.translate(pattern, recursive=True, include_hidden=True))
    paths = ["a.jpg", "x/a.jpg", "x/y/a.jpg", "a/q/b1.png", "a/b1.png", "a/x", "b/x", "c/x", "cx/y", "ax/y"]
    mine = re.compile(translate_glob(pattern))
    assert [bool(mine.fullmatch(path)) for path in paths] == [bool(theirs.match(path)) for path in paths]


def test_two_rules_of_one_outcome_are_no_contradiction():
    rules = compile_rules("own", [{"glob": "a/*", "label": "real"}, {"regex": "(?P<label>real)|a/b", "label": "real"}])
    assert match_rules("a/b", rules) == {"label": "real"}


def test_a_named_group_counts_more_than_the_rule_and_an_empty_one_less():
    rules = compile_rules("own", [{"regex": r"(?P<label>\w+)?/(?P<source>\w+)/.*", "label": "real"}])
    assert match_rules("drawing/tux/1.png", rules) == {"label": "drawing", "source": "tux"}
    assert match_rules("/tux/1.png", rules) == {"label": "real", "source": "tux"}
