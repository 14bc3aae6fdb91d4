"""Tests of prepare as a user types it."""

import io
import re
import zipfile

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from avatar_bench import config
from avatar_bench.__main__ import main
from avatar_bench.catalogue import conf_folder
from avatar_bench.data.sources import demo_root

SOURCE = """# @package source.tiny
# A wheel with two pictures.
kind: package
label: real
licence: CC0
author: a test
generator: ""
homepage: about:blank
distribution: tiny-faces
version: "1.0"
archive: wheel
files:
  "*.png": null
"""
DATA = """defaults:
  - /source@sources.tiny: tiny
  - _self_
kind: demo
root: null
blind_sources: []
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Serve a wheel to pip from a folder, and let a user's conf name it as data=tiny and source=tiny."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AVATAR_BENCH_CONF", str(tmp_path / "conf"))
    with zipfile.ZipFile(tmp_path / "tiny_faces-1.0-py3-none-any.whl", "w") as wheel:
        for name in ("red", "linear"):
            image = Image.new("RGB", (60, 60), "red") if name == "red" else Image.linear_gradient("L")
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            wheel.writestr(f"tiny_faces/{name}.png", buffer.getvalue())
        wheel.writestr("tiny_faces-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-faces\nVersion: 1.0\n")
        wheel.writestr("tiny_faces-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_faces-1.0.dist-info/RECORD", "")
    for group, text in (("source", SOURCE), ("data", DATA)):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "tiny.yaml").write_text(text)
    return tmp_path


def composed(command, *overrides):
    config.register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return OmegaConf.to_container(compose(command, list(overrides)))


def test_prepare_says_in_one_line_what_it_wrote_and_then_that_it_is_there(tiny, capsys):
    out = tiny / "a folder, with (odd) name=1"
    assert main(["prepare", "data=tiny", f"out={out}"]) == 0
    told = capsys.readouterr()
    assert told.out == f"wrote {out}: 2 real; blind set: none\n"
    assert "tiny: real, a test; licence: CC0" in told.err
    assert main(["prepare", "data=tiny", f"out={out}"]) == 0
    assert capsys.readouterr().out == f"already complete: {out}: 2 real; blind set: none\n"


def test_without_out_the_data_set_goes_to_the_cache(tiny, capsys):
    assert main(["prepare", "data=tiny"]) == 0
    assert str(demo_root()) in capsys.readouterr().out
    assert len(pd.read_csv(tiny / "cache" / "demo" / "manifest.csv")) == 2


def test_a_source_named_alone_needs_a_place(tiny, capsys):
    assert main(["prepare", "source=tiny"]) == 2
    assert "out=DIR" in capsys.readouterr().err
    assert main(["prepare", "source=tiny", f"out={tiny / 'out'}"]) == 0


def test_a_package_that_cannot_be_had_ends_with_three_lines_and_code_3(tiny, capsys):
    assert main(["prepare", "data=tiny", "data.sources.tiny.version='2.0'"]) == 3
    lines = [line for line in capsys.readouterr().err.splitlines() if "licence:" not in line]
    assert len(lines) == 3
    assert "tiny-faces==2.0" in lines[0]


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_the_demo_brings_its_sources_along(command):
    data = composed(command, "data=demo")["data"]
    assert set(data["blind_sources"]) < set(data["sources"])
    labels = [
        {data["sources"][name]["label"] for name in data["sources"] if (name in data["blind_sources"]) == blind}
        for blind in (False, True)
    ]
    assert labels == [{"real", "drawing", "generated"}] * 2


@pytest.mark.parametrize("name", [file.stem for file in sorted((conf_folder() / "source").glob("*.yaml"))])
def test_each_source_says_what_it_is_and_pins_what_it_downloads(name):
    source = composed("prepare", f"source={name}")["source"][name]
    assert {"kind", "label", "licence", "author", "generator", "homepage"} <= source.keys()
    if source["kind"] == "package":
        assert re.fullmatch(r"[0-9a-f]{64}", source["sha256"])
        assert source["files"]


@pytest.mark.slow
def test_the_true_demo_has_a_hundred_pictures_of_each_class(tmp_path, capsys):
    code = main(["prepare", "data=demo", f"out={tmp_path / 'demo'}"])
    told = capsys.readouterr().err
    if code == 3 and "pip could not download" in told:
        pytest.skip("the package index cannot be reached")
    assert code == 0, told
    manifest, blind = (pd.read_csv(tmp_path / "demo" / name) for name in ("manifest.csv", "blind.csv"))
    assert manifest["label"].value_counts().min() >= 100
    assert blind["label"].value_counts().min() >= 30
    assert not set(manifest["sha256"]) & set(blind["sha256"])
    assert not set(manifest["source"]) & set(blind["source"])
