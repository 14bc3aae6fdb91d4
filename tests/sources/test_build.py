"""Tests of data sets built from sources: real pip calls, served from a folder of archives made here."""

import functools
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avatar_bench.data.dataset import read_dataset
from avatar_bench.data.splits import SplitPlan
from avatar_bench.errors import ConfigError, DataError, OutputError
from avatar_bench.files import package_files
from avatar_bench.sources import build
from avatar_bench.sources.build import WORK_FOLDER, DatasetRecipe, build_dataset, demo_root, ensure_demo
from avatar_bench.sources.dataset_files import MANIFEST_COLUMNS

BACKEND = """
from pathlib import Path
def prepare_metadata_for_build_wheel(folder, settings=None):
    info = Path(folder) / "face_sdist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: face-sdist\\nVersion: 1.0\\n")
    return info.name
"""


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def photo(seed, kind="PNG"):
    """Draw a smooth random image, unlike that of any other seed."""
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
    collected = {"distribution": distribution, "version": "1.0", "archive": archive, "files": {"*.png": None}}
    return {"kind": "package", "label": label, **known, **collected, **more}


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Restrict pip to packages in this folder, and keep its downloads below the test's own folder."""
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
    summary = build_dataset(DatasetRecipe(sources=two, blind=("b",)), tmp_path / "out")
    assert (summary.counts, summary.blind, summary.built) == ({"real": 3}, {"drawing": 3}, True)
    manifest, blind = (pd.read_csv(tmp_path / "out" / name) for name in ("manifest.csv", "blind.csv"))
    assert tuple(manifest.columns) == tuple(blind.columns) == MANIFEST_COLUMNS
    assert list(manifest["source_file"]) == [f"face_a/{number}.png" for number in range(3)]
    assert list(manifest["path"]) == [f"images/real/a/{digest[:20]}.png" for digest in manifest["sha256"]]
    assert list(blind["author"]) == ["somebody else"] * 3
    for row in manifest.to_dict("records"):
        data = (tmp_path / "out" / row["path"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert Image.open(io.BytesIO(data)).size == (row["width"], row["height"])
    described = pd.read_csv(tmp_path / "out" / "sources.csv").set_index("source")
    assert dict(described["count"]) == {"a": 3, "b": 3}
    assert dict(described["blind"]) == {"a": False, "b": True}
    assert blind["split"].isna().all()
    assert len(read_dataset(tmp_path / "out" / "manifest.csv")) == 3
    assert len(read_dataset(tmp_path / "out" / "blind.csv")) == 3


def test_a_second_run_downloads_and_builds_nothing(index, tmp_path, two, monkeypatch):
    first = build_dataset(DatasetRecipe(sources=two, blind=("b",)), tmp_path / "out")
    monkeypatch.setattr(package_files, "_download", lambda *_: pytest.fail("downloaded again"))
    second = build_dataset(DatasetRecipe(sources=two, blind=("b",)), tmp_path / "out")
    assert not second.built
    assert second.counts == first.counts
    assert str(second).startswith("already complete")
    assert not build_dataset(DatasetRecipe(sources=two, blind=("b",)), tmp_path / "out", update=True).built


def test_the_same_recipe_gives_the_same_bytes(index, tmp_path, two):
    build_dataset(DatasetRecipe(sources=two), tmp_path / "one")
    build_dataset(DatasetRecipe(sources=two), tmp_path / "two")
    assert (tmp_path / "one" / "manifest.csv").read_bytes() == (tmp_path / "two" / "manifest.csv").read_bytes()


def test_a_table_that_is_read_in_parts_is_the_same(index, tmp_path, two, monkeypatch):
    build_dataset(DatasetRecipe(sources=two), tmp_path / "whole")
    monkeypatch.setattr(build, "_ROWS_PER_PART", 2)
    build_dataset(DatasetRecipe(sources=two), tmp_path / "parts")
    for name in ("manifest.csv", "blind.csv", "sources.csv", "duplicates.csv", "quarantine.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_sdist_is_read_like_a_wheel(index, tmp_path):
    make_sdist(index, {"static/avatars/f1.png": photo(1), "static/logo.png": photo(2)})
    collected = {"s": source("face-sdist", "real", archive="sdist", files={"*/avatars/*.png": None})}
    assert build_dataset(DatasetRecipe(sources=collected), tmp_path / "out").counts == {"real": 1}


def test_a_package_that_cannot_be_had_is_named_and_leaves_nothing(index, tmp_path):
    with pytest.raises(DataError, match=r"face-none==1\.0") as caught:
        build_dataset(DatasetRecipe(sources={"n": source("face-none", "real")}), tmp_path / "out")
    assert len(caught.value.lines) <= 3
    assert [file.name for file in (tmp_path / "out").iterdir()] == [WORK_FOLDER]


def test_an_archive_of_another_hash_is_refused(index, tmp_path):
    with pytest.raises(DataError, match="face-a"):
        build_dataset(DatasetRecipe(sources={"a": source("face-a", "real", sha256="0" * 64)}), tmp_path / "out")
    right = hashlib.sha256((index / "face_a-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    assert build_dataset(DatasetRecipe(sources={"a": source("face-a", "real", sha256=right)}), tmp_path / "out").built


def test_an_image_of_another_source_is_left_out_of_the_blind_set(index, tmp_path):
    make_wheel(index, "face-copy", {"copy.png": photo(b"face-a0", kind="WEBP"), "own.png": photo(7)})
    recipe = {"copy": source("face-copy", "real"), "a": source("face-a", "real")}
    summary = build_dataset(DatasetRecipe(sources=recipe, blind=("copy",)), tmp_path / "out")
    assert (summary.counts, summary.blind, summary.quarantined) == ({"real": 3}, {"real": 1}, 1)
    left_out = pd.read_csv(tmp_path / "out" / "quarantine.csv")
    assert left_out["file"][0] == "copy: face_copy/copy.png"
    assert left_out["reason"][0].startswith("is a near-duplicate or in a group of a: face_a/0.png")
    assert list(pd.read_csv(tmp_path / "out" / "blind.csv")["source_file"]) == ["face_copy/own.png"]


def test_before_and_after_of_a_template_share_a_group(index, tmp_path):
    make_wheel(index, "face-pairs", {f"{name}.png": photo(name.encode()) for name in ("x-1", "x-2", "y-1", "z-1")})
    pairs = source("face-pairs", "generated", group=r"^(.+)-\d+$", groups={"z-1": "someone"})
    build_dataset(DatasetRecipe(sources={"p": pairs}), tmp_path / "out")
    assert list(pd.read_csv(tmp_path / "out" / "manifest.csv")["group"]) == ["p:x", "p:x", "p:y", "someone"]


def test_the_file_name_tells_the_generator(index, tmp_path):
    made = source("face-a", "generated", generator="unknown", generators={"1*": "one", "*1*": "never"})
    build_dataset(DatasetRecipe(sources={"a": made}), tmp_path / "out")
    assert list(pd.read_csv(tmp_path / "out" / "manifest.csv")["generator"]) == ["unknown", "one", "unknown"]


def test_a_broken_image_and_a_glob_without_a_file_are_put_down(index, tmp_path):
    make_wheel(index, "face-broken", {"good.png": photo(1), "broken.png": photo(2)[:60], "text.png": b"no image"})
    files = {"*.png": None, "*.bmp": None}
    summary = build_dataset(DatasetRecipe(sources={"b": source("face-broken", "real", files=files)}), tmp_path / "out")
    assert (summary.counts, summary.quarantined) == ({"real": 1}, 3)


def test_images_of_one_name_in_two_folders_are_both_kept(index, tmp_path):
    make_wheel(index, "face-twins", {"one/1.png": photo(1), "two/1.png": photo(2)})
    build_dataset(DatasetRecipe(sources={"t": source("face-twins", "real")}), tmp_path / "out")
    manifest = pd.read_csv(tmp_path / "out" / "manifest.csv")
    assert list(manifest["source_file"]) == ["face_twins/one/1.png", "face_twins/two/1.png"]
    assert manifest["path"].nunique() == 2


def test_a_folder_of_something_else_is_not_touched(index, tmp_path, two):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="holds other files"):
        build_dataset(DatasetRecipe(sources=two), tmp_path / "out", update=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"


def test_another_recipe_changes_a_data_set_only_when_told_to(index, tmp_path, two):
    build_dataset(DatasetRecipe(sources={"a": two["a"]}), tmp_path / "out")
    with pytest.raises(OutputError, match="update=true"):
        build_dataset(DatasetRecipe(sources=two), tmp_path / "out")
    assert build_dataset(DatasetRecipe(sources=two), tmp_path / "out", update=True).counts == {"drawing": 3, "real": 3}
    assert build_dataset(DatasetRecipe(sources={"a": two["a"]}), tmp_path / "out", update=True).removed == 3


def test_a_stored_image_that_was_deleted_is_stored_again(index, tmp_path, two):
    build_dataset(DatasetRecipe(sources=two), tmp_path / "out")
    lost = tmp_path / "out" / pd.read_csv(tmp_path / "out" / "manifest.csv")["path"][2]
    before = (lost.read_bytes(), (tmp_path / "out" / "manifest.csv").read_bytes())
    lost.unlink()
    assert build_dataset(DatasetRecipe(sources=two), tmp_path / "out").built
    assert (lost.read_bytes(), (tmp_path / "out" / "manifest.csv").read_bytes()) == before


def test_an_update_asks_servers_again_for_what_they_refused(tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    (served / "0.png").write_bytes(photo(0))
    handler = functools.partial(QuietHandler, directory=served)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        known = {"label": "real", "licence": "CC0", "author": "", "generator": "", "homepage": "", "pause": 0.0}
        base = f"http://127.0.0.1:{server.server_port}"
        recipe = DatasetRecipe(
            sources={"u": {"kind": "urls", "base": base, "names": ["{0..1}.png"], "retries": 0} | known}
        )
        assert build_dataset(recipe, tmp_path / "out").quarantined == 1
        (served / "1.png").write_bytes(photo(1))
        assert not build_dataset(recipe, tmp_path / "out").built
        again = build_dataset(recipe, tmp_path / "out", update=True)
        assert (again.built, again.counts, again.quarantined) == (True, {"real": 2}, 0)
        assert not build_dataset(recipe, tmp_path / "out", update=True).built
        server.shutdown()


def test_an_update_may_not_turn_what_was_trained_on_into_a_blind_set(index, tmp_path, two):
    build_dataset(DatasetRecipe(sources=two), tmp_path / "out")
    with pytest.raises(OutputError, match="blind must stay"):
        build_dataset(DatasetRecipe(sources=two, blind=("b",)), tmp_path / "out", update=True)
    with pytest.raises(OutputError, match="split must stay"):
        build_dataset(DatasetRecipe(sources=two, plan=SplitPlan(seed=1, by="group")), tmp_path / "out", update=True)


def test_a_build_that_fails_leaves_the_data_set_as_it_was(index, tmp_path, two):
    build_dataset(DatasetRecipe(sources=two), tmp_path / "out")
    before = {file: (tmp_path / "out" / file).read_bytes() for file in ("recipe.json", "manifest.csv")}
    with pytest.raises(DataError, match=r"source\.a yielded no usable image"):
        build_dataset(
            DatasetRecipe(sources={"a": source("face-a", "real", files={"*.bmp": None})}), tmp_path / "out", update=True
        )
    assert {file: (tmp_path / "out" / file).read_bytes() for file in before} == before


def test_the_demo_goes_to_the_cache_and_follows_its_recipe(index, tmp_path, two):
    data = {"root": None, "sources": two, "blind_sources": ["b"]}
    assert ensure_demo(data).out == demo_root() == tmp_path / "cache" / "demo"
    assert not ensure_demo(data).built
    assert ensure_demo({**data, "blind_sources": []}).built


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "telepathy"}, "expected one of archive, drawn"),
        ({"licence": None}, "has no licence"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(change, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        build_dataset(DatasetRecipe(sources={"a": source("face-a", "real", **change)}), tmp_path / "out")


def test_a_drawn_source_is_drawn_the_same_each_time(tmp_path):
    for package in ("resvg_py", "dicebear", "dicebear_styles"):
        pytest.importorskip(package)
    known = {"label": "drawing", "licence": "per style", "author": "", "generator": "", "homepage": ""}
    drawn = {
        "d": {
            "kind": "drawn",
            "rasterise": True,
            "drawer": "dicebear",
            "count": 2,
            "styles": ["dylan", "lorelei"],
            **known,
        }
    }
    build_dataset(DatasetRecipe(sources=drawn), tmp_path / "one")
    build_dataset(DatasetRecipe(sources=drawn), tmp_path / "two")
    one, two = (pd.read_csv(tmp_path / name / "manifest.csv") for name in ("one", "two"))
    assert list(one["sha256"]) == list(two["sha256"])
    assert list(one["group"]) == ["d:dylan"] * 2 + ["d:lorelei"] * 2
    assert list(one["licence"]) == ["CC BY 4.0"] * 2 + ["CC0 1.0"] * 2
    assert json.loads((tmp_path / "one" / "recipe.json").read_text())["recipe"]["sources"] == drawn
