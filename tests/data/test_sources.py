"""Tests of data sets built from sources: real pip calls, served from a folder of archives made here."""

import hashlib
import io
import json
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avatar_bench import packages
from avatar_bench.data.manifest import read_dataset
from avatar_bench.data.sources import COLUMNS, build, demo_root, ensure_demo
from avatar_bench.errors import ConfigError, DataError, OutputError

BACKEND = """
from pathlib import Path
def prepare_metadata_for_build_wheel(folder, settings=None):
    info = Path(folder) / "face_sdist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: face-sdist\\nVersion: 1.0\\n")
    return info.name
"""


def photo(seed, kind="PNG"):
    """Draw a smooth random picture, unlike that of any other seed."""
    numbers = np.random.default_rng(list(seed if isinstance(seed, bytes) else [seed]))
    small = numbers.integers(0, 255, (5, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((150, 150), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def make_wheel(folder, name, contents):
    module = name.replace("-", "_")
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as wheel:
        for path, data in contents.items():
            wheel.writestr(f"{module}/{path}", data)
        wheel.writestr(f"{module}-1.0.dist-info/METADATA", metadata)
        wheel.writestr(
            f"{module}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{module}-1.0.dist-info/RECORD", "")


def make_sdist(folder, contents):
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    fixed = {"pyproject.toml": project, "backend.py": BACKEND, "PKG-INFO": "Metadata-Version: 2.1\nName: face-sdist\n"}
    with tarfile.open(folder / "face_sdist-1.0.tar.gz", "w:gz") as sdist:
        for path, data in {**{path: text.encode() for path, text in fixed.items()}, **contents}.items():
            member = tarfile.TarInfo(f"face_sdist-1.0/{path}")
            member.size = len(data)
            sdist.addfile(member, io.BytesIO(data))


def source(distribution, label, archive="wheel", **more):
    known = {"licence": "CC0", "author": "a test", "generator": "", "homepage": "about:blank"}
    found = {"distribution": distribution, "version": "1.0", "archive": archive, "files": {"*.png": None}}
    return {"kind": "package", "label": label, **known, **found, **more}


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Let pip find packages in this folder alone, and keep its downloads below the test's own folder."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("face-a", "face-b"):
        make_wheel(folder, name, {f"{number}.png": photo(f"{name}{number}".encode()) for number in range(3)})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def two():
    return {"a": source("face-a", "real"), "b": source("face-b", "drawing", author="somebody else")}


def test_a_data_set_holds_what_its_sources_gave(index, tmp_path, two):
    summary = build(two, tmp_path / "out", blind=["b"])
    assert (summary.counts, summary.blind, summary.built) == ({"real": 3}, {"drawing": 3}, True)
    manifest, blind = (pd.read_csv(tmp_path / "out" / name) for name in ("manifest.csv", "blind.csv"))
    assert tuple(manifest.columns) == tuple(blind.columns) == COLUMNS
    assert list(manifest["path"]) == [f"images/real/a/{number}.jpg" for number in range(3)]
    assert list(blind["author"]) == ["somebody else"] * 3
    for row in manifest.to_dict("records"):
        data = (tmp_path / "out" / row["path"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert Image.open(io.BytesIO(data)).size == (row["width"], row["height"])
    described = pd.read_csv(tmp_path / "out" / "sources.csv").set_index("source")
    assert dict(described["count"]) == {"a": 3, "b": 3}
    assert dict(described["blind"]) == {"a": False, "b": True}
    assert len(read_dataset(tmp_path / "out" / "manifest.csv")) == 3
    assert len(read_dataset(tmp_path / "out" / "blind.csv")) == 3


def test_a_second_run_downloads_and_builds_nothing(index, tmp_path, two, monkeypatch):
    first = build(two, tmp_path / "out", blind=["b"])
    monkeypatch.setattr(packages, "_download", lambda *_: pytest.fail("downloaded again"))
    second = build(two, tmp_path / "out", blind=["b"])
    assert not second.built
    assert second.counts == first.counts
    assert str(second).startswith("already complete")
    assert build(two, tmp_path / "out", blind=["b"], update=True).built  # from the cache


def test_the_same_recipe_gives_the_same_bytes(index, tmp_path, two):
    build(two, tmp_path / "one")
    build(two, tmp_path / "two")
    assert (tmp_path / "one" / "manifest.csv").read_bytes() == (tmp_path / "two" / "manifest.csv").read_bytes()


def test_an_sdist_is_read_like_a_wheel(index, tmp_path):
    make_sdist(index, {"static/avatars/f1.png": photo(1), "static/logo.png": photo(2)})
    found = {"s": source("face-sdist", "real", archive="sdist", files={"*/avatars/*.png": None})}
    assert build(found, tmp_path / "out").counts == {"real": 1}


def test_a_package_that_cannot_be_had_is_named_and_leaves_nothing(index, tmp_path):
    with pytest.raises(DataError, match=r"face-none==1\.0") as caught:
        build({"n": source("face-none", "real")}, tmp_path / "out")
    assert len(caught.value.lines) <= 3
    assert not (tmp_path / "out").exists()
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_an_archive_of_another_hash_is_refused(index, tmp_path):
    with pytest.raises(DataError, match="face-a"):
        build({"a": source("face-a", "real", sha256="0" * 64)}, tmp_path / "out")
    right = hashlib.sha256((index / "face_a-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    assert build({"a": source("face-a", "real", sha256=right)}, tmp_path / "out").built


def test_a_picture_of_another_source_is_left_out_of_the_blind_set(index, tmp_path):
    make_wheel(index, "face-copy", {"copy.png": photo(b"face-a0", kind="WEBP"), "own.png": photo(7)})
    recipe = {"copy": source("face-copy", "real"), "a": source("face-a", "real")}
    summary = build(recipe, tmp_path / "out", blind=["copy"])
    assert (summary.counts, summary.blind, summary.quarantined) == ({"real": 3}, {"real": 1}, 1)
    left_out = pd.read_csv(tmp_path / "out" / "quarantine.csv")
    assert left_out["file"][0] == "images/real/copy/copy.jpg"
    assert left_out["reason"][0] == "the same picture as images/real/a/0.jpg"
    assert not (tmp_path / "out" / "images/real/copy/copy.jpg").exists()


def test_before_and_after_of_a_template_share_a_group(index, tmp_path):
    make_wheel(index, "face-pairs", {f"{name}.png": photo(name.encode()) for name in ("x-1", "x-2", "y-1", "z-1")})
    pairs = source("face-pairs", "generated", group=r"^(.+)-\d+$", groups={"z-1": "someone"})
    build({"p": pairs}, tmp_path / "out")
    assert list(pd.read_csv(tmp_path / "out" / "manifest.csv")["group"]) == ["p:x", "p:x", "p:y", "someone"]


def test_the_file_name_tells_the_generator(index, tmp_path):
    made = source("face-a", "generated", generator="unknown", generators={"1*": "one", "*1*": "never"})
    build({"a": made}, tmp_path / "out")
    assert list(pd.read_csv(tmp_path / "out" / "manifest.csv")["generator"]) == ["unknown", "one", "unknown"]


def test_a_broken_picture_and_a_glob_without_a_file_are_put_down(index, tmp_path):
    make_wheel(index, "face-broken", {"good.png": photo(1), "broken.png": photo(2)[:60], "text.png": b"no picture"})
    files = {"*.png": None, "*.bmp": None}
    summary = build({"b": source("face-broken", "real", files=files)}, tmp_path / "out")
    assert (summary.counts, summary.quarantined) == ({"real": 1}, 3)


def test_pictures_of_one_name_in_two_folders_are_both_kept(index, tmp_path):
    make_wheel(index, "face-twins", {"one/1.png": photo(1), "two/1.png": photo(2)})
    build({"t": source("face-twins", "real")}, tmp_path / "out")
    assert list(pd.read_csv(tmp_path / "out" / "manifest.csv")["path"]) == [
        "images/real/t/1.jpg",
        "images/real/t/1_2.jpg",
    ]


def test_a_folder_of_something_else_is_not_touched(index, tmp_path, two):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="something else"):
        build(two, tmp_path / "out", update=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"


def test_another_recipe_replaces_a_data_set_only_when_told_to(index, tmp_path, two):
    build(two, tmp_path / "out")
    with pytest.raises(OutputError, match="update=true"):
        build(two, tmp_path / "out", blind=["b"])
    assert build(two, tmp_path / "out", blind=["b"], update=True).blind == {"drawing": 3}


def test_a_build_that_fails_leaves_the_data_set_as_it_was(index, tmp_path, two):
    build(two, tmp_path / "out")
    before = (tmp_path / "out" / "recipe.json").read_text()
    with pytest.raises(DataError, match=r"source\.a gave no picture"):
        build({"a": source("face-a", "real", files={"*.bmp": None})}, tmp_path / "out", update=True)
    assert (tmp_path / "out" / "recipe.json").read_text() == before


def test_the_demo_goes_to_the_cache_and_follows_its_recipe(index, tmp_path, two):
    data = {"root": None, "sources": two, "blind_sources": ["b"]}
    assert ensure_demo(data).out == demo_root() == tmp_path / "cache" / "demo"
    assert not ensure_demo(data).built
    assert ensure_demo({**data, "blind_sources": []}).built


@pytest.mark.parametrize(
    ("change", "blind", "said"),
    [
        ({"kind": "telepathy"}, [], "expected one of package, drawn"),
        ({"licence": None}, [], "does not say its licence"),
        ({}, ["c"], "'c' is not among the sources"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(change, blind, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        build({"a": source("face-a", "real", **change)}, tmp_path / "out", blind)


def test_vector_pictures_in_a_package_are_rasterised(index, tmp_path):
    pytest.importorskip("resvg_py")
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle cx="5" cy="5" r="3" fill="red"/></svg>'
    make_wheel(index, "face-vector", {"face.svg": svg})
    build({"v": source("face-vector", "drawing", files={"*.svg": None})}, tmp_path / "out")
    row = pd.read_csv(tmp_path / "out" / "manifest.csv").iloc[0]
    image = Image.open(tmp_path / "out" / row["path"])
    red, green, _ = image.getpixel((image.width * 5 // 9, image.height * 5 // 9))
    assert red > 200 > 60 > green


def test_a_drawn_source_is_drawn_the_same_each_time(tmp_path):
    for package in ("resvg_py", "dicebear", "dicebear_styles"):
        pytest.importorskip(package)
    known = {"label": "drawing", "licence": "per style", "author": "", "generator": "", "homepage": ""}
    drawn = {"d": {"kind": "drawn", "drawer": "dicebear", "count": 2, "styles": ["dylan", "lorelei"], **known}}
    build(drawn, tmp_path / "one")
    build(drawn, tmp_path / "two")
    one, two = (pd.read_csv(tmp_path / name / "manifest.csv") for name in ("one", "two"))
    assert list(one["sha256"]) == list(two["sha256"])
    assert list(one["group"]) == ["d:dylan"] * 2 + ["d:lorelei"] * 2
    assert list(one["licence"]) == ["CC BY 4.0"] * 2 + ["CC0 1.0"] * 2
    assert json.loads((tmp_path / "one" / "recipe.json").read_text()).keys() == {"sha256"}
