"""Tests of the table of kinds, and of every yaml of conf/source against it."""

from pathlib import Path

import pytest
import yaml

from avatar_bench.errors import ConfigError
from avatar_bench.sources.readers import SOURCE_READERS, check_source

FOLDER = Path(__file__).parents[3] / "conf" / "source"
FILES = sorted(FOLDER.glob("*.yaml"))
YOURS = ("folder", "archive", "urls", "huggingface", "manifest")  # they wait for a place to read from
DESCRIPTION = {"label": "real", "licence": "CC0", "author": "Ann", "generator": "", "homepage": ""}


def load(file):
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def source(kind="drawn", **options):
    return {"kind": kind, **DESCRIPTION, **options}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_source_is_complete_and_goes_under_its_own_name(file):
    assert file.read_text(encoding="utf-8").startswith(f"# @package source.{file.stem}\n# ")
    if file.stem in YOURS:
        with pytest.raises(ConfigError, match=rf"source\.{file.stem} has no input"):
            check_source(file.stem, load(file))
    else:
        check_source(file.stem, load(file))


@pytest.mark.parametrize("name", YOURS)
def test_a_source_of_yours_names_every_option_of_its_kind(name):
    kind = SOURCE_READERS[name]
    options = {key for choice in kind.required for key in choice.split("|")} | set(kind.optional)
    assert options - set(load(FOLDER / f"{name}.yaml")) == set()


@pytest.mark.parametrize("name", YOURS)
def test_a_source_of_yours_has_the_defaults_of_its_kind(name):
    told = load(FOLDER / f"{name}.yaml")
    assert {key: told[key] for key in SOURCE_READERS[name].optional} == dict(SOURCE_READERS[name].optional)


def test_drawings_are_rasterised():
    for file in FILES:
        if load(file)["kind"] == "drawn" or ".svg" in file.read_text(encoding="utf-8").partition("files:")[2]:
            assert load(file).get("rasterise"), file


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_two_names_of_a_source_are_one(file):
    from avatar_bench.sources.readers.urls import expand_pattern

    names = [name for pattern in load(file).get("names") or [] for name in expand_pattern(pattern)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (
            source("package", distribution="a", version="1", archive="wheel", files={"*": None}, sha265="x"),
            "did you mean sha256",
        ),
        (source("drawn", drawer="multiavatar", count=1, zebra=1), "has no option zebra: expected one of: kind, label"),
        (source("zip"), "expected one of package, drawn, folder"),
        (source("drawn", drawer="multiavatar"), r"Expected source\.x\.count="),
        (source("folder"), r"Expected one of source\.x\.root= or source\.x\.roots="),
        (source("urls", urls=["http://a"], list="b"), "has several of them: urls and list"),
        ({"kind": "drawn", "label": "drawing"}, "has no licence, author, generator, homepage"),
        (source("package", distribution="a", version="1", archive="egg", files={"*": None}), "expected wheel or sdist"),
    ],
)
def test_a_wrong_source_is_refused_with_what_was_expected(made, told):
    with pytest.raises(ConfigError, match=told) as error:
        check_source("x", made)
    assert len(error.value.lines) <= 3


def test_options_that_are_null_are_as_if_not_given():
    check_source("x", source("folder", root="somewhere", roots=None, rules=None))
