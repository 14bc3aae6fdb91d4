"""Plug-ins: found by their folder or an entry point, listed without import, and named where they are missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from avatar_bench.cli.app import main
from avatar_bench.config import catalogue, entries
from avatar_bench.config.entries import KINDS, find_entries, find_plugins
from avatar_bench.errors import ConfigError
from tests.builders.walks import walk
from tests.commands.test_all_blocks import QUICK
from tests.test_readme import examples

PLUGINS = Path(entries.__file__).parents[1] / "plugins"
ASKED = {  # words that ask for something of each plug-in
    "app": [["app"], ["export", "ckpt=run", "out=page.html"]],
    "evidence": [["predict", "ckpt=run", "input=.", "evidence=true"]],
    "hub": [["push", "ckpt=run", "to=shared"], ["evaluate", "ckpt=hf:owner/name"]],
    "hub_detectors": [["import", f"kind={kind}", "folder=net", "out=new"] for kind in ("onnx", "timm", "transformers")],
    "pretrain": [["pretrain"]],
    "ray": [
        ["predict", "ckpt=run", "input=.", "output=out.parquet", words] for words in ("engine=ray", "engine.actors=2")
    ],
}


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def copy_package(root: Path, *left_out: str) -> None:
    """Copy the package and conf/ below `root`, without what the patterns name."""
    for name in ("avatar_bench", "conf"):
        shutil.copytree(PLUGINS.parents[1] / name, root / name, ignore=shutil.ignore_patterns(*left_out))


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package with a plug-in, as pip would."""
    write(folder / "greetings" / "__init__.py", "raise RuntimeError('imported')\n")
    write(folder / "greetings" / "about.yaml", "summary: greetings of all kinds\n")
    write(folder / "greetings-1.dist-info" / "METADATA", "Name: greetings\nVersion: 1\n")
    write(folder / "greetings-1.dist-info" / "entry_points.txt", "[avatar_bench.plugins]\nhello = greetings\n")
    monkeypatch.syspath_prepend(folder)


def test_the_index_names_what_the_folders_provide() -> None:
    index = yaml.safe_load((PLUGINS / "index.yaml").read_text(encoding="utf-8"))
    names = {file.parent.name for file in PLUGINS.glob("*/about.yaml")}
    provided = {
        name: {
            kind: sorted(collected)
            for kind in KINDS
            if (
                collected := [
                    each for each, entry in find_entries(kind).items() if PLUGINS / name in entry.module.parents
                ]
            )
        }
        for name in names
    }
    stated = {name: {kind: collected for kind, collected in index[name].items() if kind != "option"} for name in names}
    assert provided == stated


def test_a_plugin_of_another_package_is_listed_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, monkeypatch)
    assert main(["list", "plugins"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("hello ")]
    assert line.split(maxsplit=1)[1] == "greetings of all kinds"
    assert "greetings" not in sys.modules


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which pip has installed the wheel of a plug-in with entries of docs/extending.md."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel, about = folder / "ours-1-py3-none-any.whl", "ours-1.dist-info"
    texts = {f"ours/{file.removeprefix('my/')}": body for file, body in examples("docs/extending.md", ("py",))}
    entries = ("ours/command/count.py", "ours/prediction_column/dimensions.py", "ours/prediction_output/md.py")
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {
            **{name: texts[name] for name in entries},
            "ours/__init__.py": "",
            "ours/about.yaml": "summary: sizes and counts\n",
            f"{about}/METADATA": "Metadata-Version: 2.1\nName: ours\nVersion: 1\n",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{about}/entry_points.txt": "[avatar_bench.plugins]\nours = ours\n",
            f"{about}/RECORD": "",
        }.items():
            archive.writestr(name, text)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target"]
    subprocess.run([*pip, str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


@pytest.mark.slow
def test_a_wheel_adds_a_command_a_column_and_an_output(
    installed: Path, tiny_run: Path, images: Path, tmp_path: Path
) -> None:
    file = tmp_path / "out.md"
    words = [f"ckpt={tiny_run}", f"input={images / 'blind'}", f"output={file}", "dimensions=true", "workers=0"]
    commands = [["list", "plugins"], ["--help"], ["count", "--help"], ["count", str(images / "blind.csv"), "by=label"]]
    commands += [["count", "by=lable"], ["predict", *words]]
    ends = walk(commands, tmp_path, os.pathsep.join([str(installed), str(PLUGINS.parents[1])]))
    assert [code for code, _, _ in ends] == [0, 0, 0, 0, 2, 0], ends
    listed, helped, count_helped, counted, *_ = (out for _, out, _ in ends)
    assert "ours" in listed
    assert re.search(r"\n  count +Count the images of a manifest\n", helped)
    assert "by=label                            label | source | split; column to count by" in count_helped
    assert counted.count(" 14") == 3
    assert ends[4][2] == "by=lable: expected one of label, source, split\n"
    header, _rule, *rows = file.read_text(encoding="utf-8").splitlines()
    assert header.endswith("| dimensions |")
    assert len(rows) == 42
    assert all(re.search(r"\| \d+x\d+ \|$", row) for row in rows)


def test_a_plugin_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, monkeypatch)
    write(tmp_path / "greetings" / "command" / "greet.py", '"""greet: greet."""\n')
    assert main(["greet"]) == 2
    assert "greet.py cannot be imported: RuntimeError: imported" in capsys.readouterr().err
    (tmp_path / "greetings" / "about.yaml").unlink()
    assert main(["list", "plugins"]) == 2
    assert "The package greetings is no plug-in" in capsys.readouterr().err


def test_what_a_study_provides_is_of_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "block=transformers"]) == 2
    assert "add -cd studies/avatar_types" in capsys.readouterr().err


def test_the_name_of_another_entry_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    write(tmp_path / "greetings" / "command" / "train.py", "")
    with pytest.raises(ConfigError, match="avatar_bench already has a command train"):
        find_entries("command")


def test_what_is_missing_is_of_a_plugin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(entries, "find_plugins", dict)
    known = find_entries("command")
    monkeypatch.setattr(entries, "find_entries", lambda kind: known if kind == "command" else {})
    for name in set(known) & {"app", "push", "pretrain"}:
        del known[name]
    for name, plugin in (("app", "app"), ("push", "hub"), ("pretrain", "pretrain")):
        assert main([name]) == 2
        assert f"{name}: this is of the plug-in {plugin}, which is not" in capsys.readouterr().err


def test_the_plugins_have_a_summary_and_an_extra_that_exists() -> None:
    import tomllib

    project = tomllib.loads((PLUGINS.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for plugin in find_plugins().values():
        assert plugin.about["summary"]
        assert plugin.about.keys() <= {"summary", "extra"}
        assert plugin.about.get("extra") in {None, *project["optional-dependencies"]}


@pytest.mark.slow
def test_everything_else_works_without_plugins(small: list[str], tiny_run: Path, images: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    copy_package(root, "*.pyc.*")  # with its bytecode, but no file of it that is being written
    for name in ASKED:
        shutil.rmtree(root / "avatar_bench" / "plugins" / name)
    shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    commands = [
        ["--help"],
        *(["list", kind] for kind in catalogue.LISTED_GROUPS),
        *([command, "--help"] for command in ("train", "evaluate", "predict", "export", "import")),
        ["predict", "ckpt=run", f"input={images / 'blind'}", "output=out.csv", "workers=0"],
        ["train", *small, "epochs=1", "out=new"],
        ["evaluate", "ckpt=run", "block=[blind_test,gradcam,out_of_domain]", "data.workers=0", "skip_unusable=true"]
        + [word for word in QUICK if word.split(".")[1] in ("blind_test", "gradcam", "out_of_domain")],
        ["report", "runs=run"],
    ]
    asked = [(name, words) for name, more in ASKED.items() for words in more]
    ends = walk([*commands, *(words for _, words in asked)], tmp_path, str(root))
    assert [code for code, _, _ in ends] == [0] * len(commands) + [2] * len(asked), ends
    for (name, words), (_, _, err) in zip(asked, ends[len(commands) :], strict=True):
        assert f"this is of the plug-in {name}, which is not part of this installation" in err, words
    shutil.rmtree(root / "avatar_bench" / "plugins")  # with the index of what they provide
    ((code, _, err),) = walk([["push"]], tmp_path, str(root))
    assert (code, err.splitlines()[0]) == (2, "push: no such command")
