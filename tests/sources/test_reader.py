"""Tests of the kinds of sources, of users' own, and of every yaml of conf/source."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml

from avatar_bench.config.entries import find_entry
from avatar_bench.errors import ConfigError
from avatar_bench.sources.reader import SourceJob, hash_state, open_reader, read_images
from avatar_bench.sources.readers.urls import expand_pattern
from tests.builders.run_files import write_file

FOLDER = Path(__file__).parents[2] / "conf" / "source"
FILES = sorted(FOLDER.glob("*.yaml"))
YOURS = ("folder", "archive", "urls", "huggingface", "manifest")  # they wait for a place to read from
DESCRIPTION = {"label": "real", "licence": "CC0", "author": "Ann", "generator": "", "homepage": ""}


def load(file):
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def source(kind="drawn", **options):
    return {"kind": kind, **DESCRIPTION, **options}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_source_is_complete_under_its_own_name_and_distinct_names_and_rasterises_drawings(file):
    assert file.read_text(encoding="utf-8").startswith(f"# @package source.{file.stem}\n# ")
    if file.stem in YOURS:
        with pytest.raises(ConfigError, match=rf"source\.{file.stem} has no input"):
            open_reader(file.stem, load(file))
    else:
        open_reader(file.stem, load(file))
    if load(file)["kind"] == "package":
        assert re.fullmatch(r"[0-9a-f]{64}", load(file)["sha256"])
    if load(file)["kind"] == "drawn" or ".svg" in file.read_text(encoding="utf-8").partition("files:")[2]:
        assert load(file).get("rasterise")
    names = [name for pattern in load(file).get("names") or [] for name in expand_pattern(pattern)]
    assert len(names) == len(set(names))


def test_a_source_of_yours_names_every_option_of_its_kind_with_its_default():
    for name in YOURS:
        stated, options = load(FOLDER / f"{name}.yaml"), fields(find_entry("source", name).load_class())
        assert {member.name for member in options} - set(stated) == set()
        defaults = {member.name: member.default for member in options if member.default is not MISSING}
        assert {name: stated[name] for name in defaults} == defaults


def test_a_wrong_source_is_refused_with_what_was_expected():
    for stated, message in (
        (
            source("package", distribution="a", version="1", archive="wheel", files={"*": None}, sha265="x"),
            "did you mean sha256",
        ),
        (source("drawn", drawer="multiavatar", count=1, zebra=1), "has no option zebra; expected one of: kind, label"),
        (source("zip"), "expected one of archive, drawn, folder"),
        (source("drawn", drawer="multiavatar"), r"Expected source\.x\.count="),
        (source("folder"), r"Expected one of source\.x\.root= or source\.x\.roots="),
        (source("urls", urls=["http://a"], list="b"), "has several of them: urls and list"),
        ({"kind": "drawn", "label": "drawing"}, "has no licence, author, generator, homepage"),
        (source("package", distribution="a", version="1", archive="egg", files={"*": None}), "expected wheel or sdist"),
    ):
        open_reader("x", source("folder", root="somewhere", roots=None, rules=None))  # null is as if not given
        with pytest.raises(ConfigError, match=message) as error:
            open_reader("x", stated)
        assert len(error.value.lines) <= 3


KIND = """
from dataclasses import dataclass
from avatar_bench.sources.reader import SourceReader

@dataclass(kw_only=True)
class Feed(SourceReader):
    address: str

    def read(self, job):
        raise OSError("no answer")
"""


def test_a_kind_of_a_user_has_its_options_and_state_and_a_failure_names_its_module(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_BENCH_CONF", str(tmp_path))
    own_kind = write_file(tmp_path / "source" / "feed.py", KIND)
    with pytest.raises(ConfigError, match=r"Expected source\.x\.address="):
        open_reader("x", source("feed"))
    with pytest.raises(ConfigError, match="has no option adress; did you mean address"):
        open_reader("x", source("feed", adress="a"))
    job = SourceJob("x", source("feed", address="a"), tmp_path)
    with pytest.raises(ConfigError, match=rf"{own_kind} failed: OSError: no answer"):
        list(read_images(job))
    before = hash_state("x", source("feed", address="a"))
    own_kind.write_text(KIND.replace("no answer", "nothing"))
    assert before != hash_state("x", source("feed", address="a")) != ""
    own_kind.write_text(KIND.replace("(SourceReader)", ""))
    with pytest.raises(ConfigError, match=r"feed\.py must define a SourceReader"):
        open_reader("x", source("feed", address="a"))
