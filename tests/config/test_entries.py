"""Entries of the open doors: found by name, without import, in the package and in users' folders."""

import os
import subprocess
import sys

import pytest

from avatar_bench.config.entries import FOLDERS_VARIABLE, KINDS, find_entries, find_entry, use_folders
from avatar_bench.errors import ConfigError
from tests.builders.run_files import write_file

OPTIONS = """
from dataclasses import dataclass
from avatar_bench.config.options import Options, option

@dataclass(kw_only=True)
class Mine(Options):
    "Mine."
    size: int = option(2, help="size", range=(1, None))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path))
    return tmp_path


def test_an_entry_is_listed_without_import_and_built_with_its_options_or_refused(folder):
    write_file(folder / "corruption" / "fog.py", "raise RuntimeError('imported')")
    write_file(folder / "corruption" / "fog.yaml", "title: fog\n")
    write_file(folder / "corruption" / "not a name.py", "")
    entries = find_entries("corruption")
    assert entries["fog"].about == {"title": "fog"}
    assert not entries["fog"].is_builtin
    assert "not a name" not in entries
    write_file(folder / "block" / "mine" / "__init__.py", "from . import parts\nvalue = parts.value\n")
    write_file(folder / "block" / "mine" / "parts.py", "value = 3\n")
    assert find_entry("block", "mine").load().value == 3
    write_file(folder / "corruption" / "mine.py", OPTIONS)
    assert find_entry("corruption", "mine").build({"size": 5}).size == 5
    for kind, name, options, message in (
        ("corruption", "mine", {"sise": 5}, r"corruption\.mine\.sise: there is no such option; did you mean size"),
        ("corruption", "mine", {"size": 0}, r"corruption\.mine\.size=0: expected 1 or more"),
        ("corruption", "mine", 3, r"corruption\.mine=3: expected its options"),
        ("ood_score", "knn", {"k": 0}, r"ood_score\.knn\.k=0: expected 1 or more"),  # one of several in a module
        ("ood_score", "max_logit", {"k": 1}, r"ood_score\.max_logit\.k: there is no such option"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_entry(kind, name).build(options)


def test_entries_that_cannot_be_imported_are_unknown_or_take_a_name_are_refused(folder):
    write_file(folder / "ood_score" / "broken.py", "import no_such_module\n")
    with pytest.raises(ConfigError, match=r"ood_score=broken: .*broken\.py cannot be imported: ModuleNotFoundError"):
        find_entry("ood_score", "broken").load()
    write_file(folder / "ood_score" / "empty.py", "")
    with pytest.raises(ConfigError, match="must define one public dataclass, not 0"):
        find_entry("ood_score", "empty").load_class()
    write_file(folder / "ood_score" / "mine.py", OPTIONS)
    with pytest.raises(ConfigError) as error:
        find_entry("ood_score", "mime")
    assert "did you mean mine?" in str(error.value)
    assert f"Searched {folder / 'ood_score'}." in str(error.value)
    write_file(folder / "block" / "blind_test" / "__init__.py", OPTIONS)
    with pytest.raises(ConfigError, match="already has a block blind_test"):
        find_entries("block")


def test_another_process_finds_a_module_and_the_first_folder_wins(folder, tmp_path, monkeypatch):
    write_file(folder / "ood_score" / "mine.py", "value = 7\n")
    script = "import avatar_bench.user_entries.ood_score.mine as mine; assert mine.value == 7"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    monkeypatch.delenv(FOLDERS_VARIABLE, raising=False)
    for name, value in (("one", 1), ("two", 2)):
        write_file(tmp_path / name / "ood_score" / "mine.py", f"value = {value}\n")
    with use_folders([tmp_path / "two"]):
        assert find_entry("ood_score", "mine").load().value == 2
        with use_folders([tmp_path / "one"]):
            assert find_entry("ood_score", "mine").load().value == 1
    assert FOLDERS_VARIABLE not in os.environ
    assert "mine" not in find_entries("ood_score")


@pytest.mark.parametrize("kind", KINDS)
def test_every_built_in_entry_can_be_imported(kind):
    for entry in find_entries(kind).values():
        assert entry.load().__doc__, entry.module
