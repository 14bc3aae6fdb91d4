"""Tests of data sets built from sources: folders, a server, and packages that pip fetches from archives made here."""

import functools
import hashlib
import io
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest
from PIL import Image

from avatar_bench.data.dataset import read_dataset
from avatar_bench.data.splits import SplitPlan
from avatar_bench.errors import ConfigError, DataError, OutputError
from avatar_bench.sources import build
from avatar_bench.sources.build import WORK_FOLDER, DatasetRecipe, build_dataset, demo_root, ensure_demo
from avatar_bench.sources.dataset_files import MANIFEST_COLUMNS
from tests.builders.archives import write_tar, write_zip
from tests.builders.pixels import encode, make_smooth
from tests.builders.run_files import write_file

BACKEND = """
from pathlib import Path
def prepare_metadata_for_build_wheel(folder, settings=None):
    info = Path(folder) / "face_sdist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: face-sdist\\nVersion: 1.0\\n")
    return info.name
"""
DESCRIPTION = {"licence": "CC0", "author": "a test", "generator": "", "homepage": "about:blank"}


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def photo(seed, kind="PNG"):
    return encode(make_smooth(seed, 150, 150), kind)


def make_wheel(folder, name, contents):
    module = name.replace("-", "_")
    about = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    members = {f"{module}/{path}": data for path, data in contents.items()}
    members |= {f"{module}-1.0.dist-info/{path}": data for path, data in about.items()}
    write_zip(folder / f"{module}-1.0-py3-none-any.whl", members)


def make_sdist(folder, contents):
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    fixed = {"pyproject.toml": project, "backend.py": BACKEND, "PKG-INFO": "Metadata-Version: 2.1\nName: face-sdist\n"}
    members = {path: text.encode() for path, text in fixed.items()} | contents
    write_tar(folder / "face_sdist-1.0.tar.gz", {f"face_sdist-1.0/{path}": data for path, data in members.items()})


def package(distribution, archive="wheel", files=("*.png",), **options):
    known = {"distribution": distribution, "version": "1.0", "archive": archive, "files": dict.fromkeys(files)}
    return {"kind": "package", "label": "real", **DESCRIPTION, **known, **options}


def make_folder(folder, label, contents):
    """Write files and return the source of them."""
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return {"kind": "folder", "root": str(folder), "label": label, **DESCRIPTION}


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Restrict pip to packages in this folder, and keep its downloads below the test's own folder."""
    folder = tmp_path / "index"
    folder.mkdir()
    make_wheel(folder, "face-a", {f"{number}.png": photo(number) for number in range(3)})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def two(tmp_path):
    real = make_folder(tmp_path / "a", "real", {f"{number}.png": photo(number) for number in range(3)})
    drawing = make_folder(tmp_path / "b", "drawing", {f"{number}.png": photo(number + 10) for number in range(3)})
    return {"a": real, "b": drawing | {"author": "somebody else"}}


def test_a_data_set_holds_what_its_sources_gave(index, tmp_path, two):
    faces = package("face-a", group=r"^([01])", groups={"2": "someone"}, generators={"1*": "one", "*1*": "never"})
    summary = build_dataset(DatasetRecipe(sources={"a": faces, "b": two["b"]}, blind=("b",)), tmp_path / "out")
    assert (summary.counts, summary.blind, summary.built) == ({"real": 3}, {"drawing": 3}, True)
    manifest, blind = (pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("manifest", "blind"))
    assert tuple(manifest.columns) == tuple(blind.columns) == MANIFEST_COLUMNS
    assert list(manifest["source_file"]) == [f"face_a/{number}.png" for number in range(3)]
    assert list(manifest["path"]) == [f"images/real/a/{digest[:20]}.png" for digest in manifest["sha256"]]
    assert list(manifest["group"]) == ["a:0", "a:1", "someone"]
    assert list(manifest["generator"].fillna("")) == ["", "one", ""]
    assert list(blind["author"]) == ["somebody else"] * 3
    for row in manifest.to_dict("records"):
        data = (tmp_path / "out" / row["path"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert Image.open(io.BytesIO(data)).size == (row["width"], row["height"])
    described = pd.read_csv(tmp_path / "out" / "sources.csv").set_index("source")
    expected = {"a": {"count": 3, "blind": False}, "b": {"count": 3, "blind": True}}
    assert described[["count", "blind"]].to_dict("index") == expected
    assert blind["split"].isna().all()
    assert [len(read_dataset(tmp_path / "out" / f"{name}.csv")) for name in ("manifest", "blind")] == [3, 3]


@pytest.mark.slow
def test_an_sdist_is_read_like_a_wheel_and_a_second_run_downloads_and_builds_nothing(index, tmp_path, monkeypatch):
    make_sdist(index, {"static/avatars/f1.png": photo(1), "static/logo.png": photo(2)})
    faces = package("face-sdist", archive="sdist", files=["*/avatars/*.png"])
    assert build_dataset(DatasetRecipe(sources={"s": faces}), tmp_path / "sdist").counts == {"real": 1}
    recipe = DatasetRecipe(sources={"a": package("face-a")})
    first = build_dataset(recipe, tmp_path / "out")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    second = build_dataset(recipe, tmp_path / "out")
    assert (second.built, second.counts) == (False, first.counts)
    assert str(second).startswith("already complete")
    assert not build_dataset(recipe, tmp_path / "out", update=True).built


def test_a_package_that_is_missing_or_of_another_hash_is_named_and_leaves_nothing(index, tmp_path):
    for faces, name in (package("face-none"), r"face-none==1\.0"), (package("face-a", sha256="0" * 64), "face-a"):
        with pytest.raises(DataError, match=name) as caught:
            build_dataset(DatasetRecipe(sources={"n": faces}), tmp_path / "out")
        assert len(caught.value.lines) <= 3
        assert [file.name for file in (tmp_path / "out").iterdir()] == [WORK_FOLDER]
    right = hashlib.sha256((index / "face_a-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    assert build_dataset(DatasetRecipe(sources={"n": package("face-a", sha256=right)}), tmp_path / "out").built


def test_broken_images_are_put_down_copies_leave_the_blind_set_and_one_name_may_come_twice(tmp_path, two):
    copies = make_folder(tmp_path / "copies", "real", {"copy.png": photo(0, kind="WEBP"), "own.png": photo(7)})
    recipe = DatasetRecipe(sources={"copy": copies, "a": two["a"]}, blind=("copy",))
    summary = build_dataset(recipe, tmp_path / "out")
    assert (summary.counts, summary.blind, summary.quarantined) == ({"real": 3}, {"real": 1}, 1)
    left_out = pd.read_csv(tmp_path / "out" / "quarantine.csv")
    assert left_out["file"][0] == "copy: copy.png"
    assert left_out["reason"][0].startswith("is a near-duplicate or in a group of a: 0.png")
    assert list(pd.read_csv(tmp_path / "out" / "blind.csv")["source_file"]) == ["own.png"]
    files = {"one/1.png": photo(1), "two/1.png": photo(2), "broken.png": photo(3)[:60], "text.png": b"no image"}
    recipe = DatasetRecipe(sources={"t": make_folder(tmp_path / "t", "real", files)})
    summary = build_dataset(recipe, tmp_path / "broken")
    assert (summary.counts, summary.quarantined) == ({"real": 2}, 2)
    manifest = pd.read_csv(tmp_path / "broken" / "manifest.csv")
    assert (list(manifest["source_file"]), manifest["path"].nunique()) == (["one/1.png", "two/1.png"], 2)


def test_another_recipe_changes_a_data_set_only_when_told_to_but_no_test_set_nor_other_folder(tmp_path, two, capsys):
    thesis = write_file(tmp_path / "foreign" / "thesis.txt", "precious")
    with pytest.raises(DataError, match="holds other files"):
        build_dataset(DatasetRecipe(sources=two), thesis.parent, update=True)
    assert thesis.read_text() == "precious"
    build_dataset(DatasetRecipe(sources={"a": two["a"]}), tmp_path / "out")
    with pytest.raises(OutputError, match="update=true"):
        build_dataset(DatasetRecipe(sources=two), tmp_path / "out")
    capsys.readouterr()
    assert build_dataset(DatasetRecipe(sources=two), tmp_path / "out", update=True).counts == {"drawing": 3, "real": 3}
    err = capsys.readouterr().err
    assert ("b: drawing" in err, "a: real" in err) == (True, False)  # the new source alone is read
    with pytest.raises(OutputError, match="blind must stay"):
        build_dataset(DatasetRecipe(sources=two, blind=("b",)), tmp_path / "out", update=True)
    with pytest.raises(OutputError, match="split must stay"):
        build_dataset(DatasetRecipe(sources=two, plan=SplitPlan(seed=1, by="group")), tmp_path / "out", update=True)
    assert build_dataset(DatasetRecipe(sources={"a": two["a"]}), tmp_path / "out", update=True).removed == 3
    with pytest.raises(ConfigError, match=r"is inside the folder that source\.a is read from"):
        build_dataset(DatasetRecipe(sources=two), tmp_path / "a" / "out")
    make_folder(tmp_path / "kept", "real", {"real/0.png": photo(0)})
    apart = DatasetRecipe(sources={"a": two["a"]}, against={"blind": str(tmp_path / "kept")})
    assert build_dataset(apart, tmp_path / "apart").counts == {"real": 2}
    (tmp_path / "kept" / "real" / "1.png").write_bytes(photo(1))
    with pytest.raises(OutputError, match=r"against\.blind has changed since"):
        build_dataset(apart, tmp_path / "apart")
    assert build_dataset(apart, tmp_path / "apart", update=True).counts == {"real": 1}


def test_a_deleted_image_is_stored_again_a_failure_changes_nothing_and_parts_are_the_same(tmp_path, two, monkeypatch):
    whole = tmp_path / "whole"
    build_dataset(DatasetRecipe(sources=two), whole)
    lost = whole / pd.read_csv(whole / "manifest.csv")["path"][2]
    before = (lost.read_bytes(), (whole / "manifest.csv").read_bytes())
    lost.unlink()
    assert build_dataset(DatasetRecipe(sources=two), whole).built
    assert (lost.read_bytes(), (whole / "manifest.csv").read_bytes()) == before
    before = {file: (whole / file).read_bytes() for file in ("recipe.json", "manifest.csv")}
    broken = make_folder(tmp_path / "broken", "real", {"text.png": b"no image"})
    with pytest.raises(DataError, match=r"source\.a yielded no usable image"):
        build_dataset(DatasetRecipe(sources={"a": broken}), whole, update=True)
    assert {file: (whole / file).read_bytes() for file in before} == before
    monkeypatch.setattr(build, "_ROWS_PER_PART", 2)
    build_dataset(DatasetRecipe(sources=two), tmp_path / "parts")
    for name in ("manifest.csv", "blind.csv", "sources.csv", "duplicates.csv", "quarantine.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (whole / name).read_bytes()


def test_an_update_asks_servers_again_for_what_they_refused(tmp_path):
    make_folder(tmp_path / "served", "real", {"0.png": photo(0)})
    handler = functools.partial(QuietHandler, directory=tmp_path / "served")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        known = {"kind": "urls", "label": "real", **DESCRIPTION, "pause": 0.0, "retries": 0}
        base = f"http://127.0.0.1:{server.server_port}"
        recipe = DatasetRecipe(sources={"u": {**known, "base": base, "names": ["{0..1}.png"]}})
        assert build_dataset(recipe, tmp_path / "out").quarantined == 1
        (tmp_path / "served" / "1.png").write_bytes(photo(1))
        assert not build_dataset(recipe, tmp_path / "out").built
        again = build_dataset(recipe, tmp_path / "out", update=True)
        assert (again.built, again.counts, again.quarantined) == (True, {"real": 2}, 0)
        assert not build_dataset(recipe, tmp_path / "out", update=True).built
        server.shutdown()


def test_the_demo_goes_to_the_cache_and_follows_its_recipe(tmp_path, two, monkeypatch):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    data = {"root": None, "sources": two, "blind_sources": ["b"]}
    assert ensure_demo(data).out == demo_root() == tmp_path / "cache" / "demo"
    assert not ensure_demo(data).built
    assert ensure_demo({**data, "blind_sources": []}).built


def test_a_drawn_source_is_drawn_the_same_each_time_and_names_the_licence_and_artist_of_each_style(tmp_path):
    for name in ("resvg_py", "dicebear", "dicebear_styles"):
        pytest.importorskip(name)
    options = {"rasterise": True, "drawer": "dicebear", "count": 2, "styles": ["dylan", "lorelei"]}
    drawn = {"d": {"kind": "drawn", "label": "drawing", **DESCRIPTION, **options}}
    build_dataset(DatasetRecipe(sources=drawn), tmp_path / "one")
    build_dataset(DatasetRecipe(sources=drawn), tmp_path / "two")
    first, second = (pd.read_csv(tmp_path / name / "manifest.csv") for name in ("one", "two"))
    assert list(first["sha256"]) == list(second["sha256"])
    assert list(first["group"]) == ["d:dylan"] * 2 + ["d:lorelei"] * 2
    assert list(first["licence"]) == ["CC BY 4.0"] * 2 + ["CC0 1.0"] * 2
    assert list(first["author"]) == ["Natalia Spivak"] * 2 + ["Lisa Wischofsky"] * 2
    assert json.loads((tmp_path / "one" / "recipe.json").read_text())["recipe"]["sources"] == drawn
