"""Installed wheel: works without the checkout."""

import os
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from avatar_bench import __version__
from tests.builders.commands import read_record
from tests.builders.walks import walk

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(out), str(ROOT)]
    subprocess.run(command, check=True, timeout=500)
    (file,) = out.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def program(wheel, tmp_path_factory):
    """Command of a new environment with the wheel, which also sees the packages installed here."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    bin_folder = folder / ("Scripts" if os.name == "nt" else "bin")
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    seen = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    install = [sys.executable, "-m", "pip", "--python", str(bin_folder / "python"), "install", "--no-deps", "--quiet"]
    subprocess.run([*install, str(wheel)], check=True, timeout=300)
    (packages / "others.pth").write_text("\n".join(sorted(seen)) + "\n")
    return bin_folder / "avatar-bench"


def test_the_wheel_holds_every_yaml_and_the_marker_of_types(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    yamls = {f"avatar_bench/{file.relative_to(ROOT).as_posix()}" for file in ROOT.glob("conf/**/*.yaml")}
    entries = {file.relative_to(ROOT).as_posix() for file in ROOT.glob("avatar_bench/**/*.yaml")}
    assert "avatar_bench/evaluation/blocks/robustness/ru.yaml" in entries
    assert yamls | entries <= names
    assert {"avatar_bench/py.typed", "avatar_bench/reporting/templates/card.html.jinja"} <= names
    assert not any(name.startswith(("tests/", "conf/", "docs/", "studies/")) for name in names)


def test_the_installed_command_is_the_wheels_own(program, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    version = subprocess.check_output([str(program), "--version"], cwd=tmp_path, env=environment, text=True)
    assert version == f"avatar-bench {__version__}\n"
    where = [str(program.with_name("python")), "-c", "import avatar_bench; print(avatar_bench.__file__)"]
    file = subprocess.check_output(where, cwd=tmp_path, env={"PATH": ""}, text=True)
    assert Path(file.strip()).is_relative_to(program.parents[1])


def test_it_lists_prepares_trains_evaluates_and_predicts_from_another_folder(program, small, images, tmp_path):
    audit = [f"block.data_audit.{option}" for option in ("resamples=100", "folds=2", "label_errors=false")]
    commands = [
        ["list", "models"],
        ["prepare", "source=folder", f"source.folder.root={images / 'blind'}", *audit, "out=set"],
        ["train", *small, "data.limit=60", "trainer=debug", "mode=progressive", "stage=2", "out=run"],
        ["evaluate", "ckpt=run", "allow=[permutation]", "block=blind_test", "data.workers=0"],
        ["predict", "ckpt=run", f"input={images / 'blind'}", "output=out.csv", "workers=0"],
    ]
    ends = walk(commands, tmp_path, None, str(program.with_name("python")))
    assert [code for code, _, _ in ends] == [0] * len(commands), ends
    assert "convnext_tiny" in ends[0][1]
    assert "<table" in (tmp_path / "set" / "card.html").read_text(encoding="utf-8")
    assert len(read_record(tmp_path / "run")["stages"]) == 2
    assert len(pd.read_csv(tmp_path / "out.csv")) == 42
