"""Plug-ins: found by their folder or an entry point, listed without import, and named where they are missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from avatar_bench.cli.app import main
from avatar_bench.config import entries
from avatar_bench.config.entries import KINDS, find_entries, find_plugins
from avatar_bench.errors import ConfigError

PLUGINS = Path(entries.__file__).parents[1] / "plugins"
COMMAND = '''"""greet: greet somebody."""

from dataclasses import dataclass

from avatar_bench.config.options import option


@dataclass
class GreetOptions:
    name: str = option("you", help="whom", choices=("you", "all"))


def execute(options):
    print("hello", options.name)
'''


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package with a plug-in, as pip would."""
    write(folder / "greetings" / "__init__.py", "raise RuntimeError('imported')\n")
    write(folder / "greetings" / "about.yaml", "summary: greetings of all kinds\n")
    write(folder / "greetings-1.dist-info" / "METADATA", "Name: greetings\nVersion: 1\n")
    write(folder / "greetings-1.dist-info" / "entry_points.txt", "[avatar_bench.plugins]\ngreetings = greetings\n")
    monkeypatch.syspath_prepend(folder)


def test_the_index_names_what_the_folders_provide() -> None:
    index = yaml.safe_load((PLUGINS / "index.yaml").read_text(encoding="utf-8"))
    names = {file.parent.name for file in PLUGINS.glob("*/about.yaml")}
    provided = {
        name: {
            kind: sorted(found)
            for kind in KINDS
            if (found := [each for each, entry in find_entries(kind).items() if PLUGINS / name in entry.module.parents])
        }
        for name in names
    }
    assert provided == {name: index[name] for name in names}


def test_a_plugin_of_another_package_is_listed_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, monkeypatch)
    assert main(["list", "plugins"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("greetings")]
    assert line.split(maxsplit=1)[1] == "greetings of all kinds"
    assert "greetings" not in sys.modules


def test_a_plugin_adds_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    write(tmp_path / "greetings" / "__init__.py", "")
    write(tmp_path / "greetings" / "command" / "greet.py", COMMAND)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join([str(tmp_path), str(PLUGINS.parents[1])])
        command = [sys.executable, "-m", "avatar_bench", *words]
        environment = os.environ | {"PYTHONPATH": paths}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert "\n  greet       greet somebody\n" in call("--help").stdout
    assert "name=you                            you | all; whom" in call("greet", "--help").stdout
    assert call("greet", "name=all").stdout == "hello all\n"
    wrong = call("greet", "name=none")
    assert (wrong.returncode, wrong.stderr) == (2, "name=none: expected one of you, all\n")


def test_the_name_of_another_entry_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    write(tmp_path / "greetings" / "command" / "train.py", COMMAND)
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
