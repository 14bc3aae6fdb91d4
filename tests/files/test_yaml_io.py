"""Files of YAML: what multiplies itself, or is huge or deep, is refused in a second."""

import os
import time
import tracemalloc
from pathlib import Path

import pytest

from avatar_bench.cli.app import main
from avatar_bench.errors import ConfigError
from avatar_bench.files.yaml_io import MAX_YAML_BYTES, read_yaml
from avatar_bench.runs.record import read_config


def write_laughs(file):
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    file.write_text("\n".join(lines))


def write_merged_laughs(file):
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{n}: &a{n} {{b: *a{n - 1}, c: *a{n - 1}, <<: *a{n - 1}}}" for n in range(1, 30)]
    file.write_text("\n".join(lines))


def write_gigabyte(file):
    with file.open("wb") as stream:
        stream.write(b"a: 1\n#")
        stream.truncate(1 << 30)


BOMBS = {  # by what each is: a function that writes it
    "laughs": write_laughs,
    "merged laughs": write_merged_laughs,
    "long alias": lambda file: file.write_text(f"a: &a {'x' * 500_000}\nb: [{', '.join(['*a'] * 1000)}]\n"),
    "loop": lambda file: file.write_text("a: &a [*a]\n"),
    "deep flow": lambda file: file.write_text("a: " + "[" * 100_000 + "]" * 100_000),
    "deep block": lambda file: file.write_text("\n".join(" " * n + "a:" for n in range(1000))),
    "gigabyte": write_gigabyte,
    "huge scalar": lambda file: file.write_text("a: " + "x" * 100_000_000),
    "many": lambda file: file.write_text("a: [" + "1," * 200_000 + "]"),
    "binary": lambda file: file.write_bytes(bytes(range(256)) * 10),
    "huge number": lambda file: file.write_text(f"a: {'9' * 10_000}\n"),
    "unreadable": lambda file: file.write_text("a: [1, 2\nb: }"),
    "tagged": lambda file: file.write_text("a: !!python/object/apply:os.system ['touch it-ran']\n"),
    "pipe": os.mkfifo,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_soon_and_in_little_memory_and_unread_in_a_run_folder(bomb, tmp_path):
    file = tmp_path / "config.yaml"
    BOMBS[bomb](file)
    begun = time.process_time()
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_yaml(file)
    assert time.process_time() - begun < 1
    tracemalloc.start()
    assert read_config(tmp_path) == {}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * MAX_YAML_BYTES


def refuse(words, capfd):
    """Check that a command ends with 2 in three lines at most, and that nothing has run; return what it said."""
    assert main(words) == 2
    err = capfd.readouterr().err
    assert len(err.splitlines()) <= 3
    assert not Path("it-ran").exists()
    return err


@pytest.mark.parametrize("bomb", ["binary", "huge number", "unreadable", "tagged"])
def test_what_is_no_yaml_in_a_folder_of_ones_own_ends_the_command(bomb, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "mode").mkdir(parents=True)
    BOMBS[bomb](tmp_path / "conf" / "mode" / "bomb.yaml")
    assert "bomb" in refuse(["train", "data=folder", "data.root=none", "-cd", "conf", "mode=bomb"], capfd)


@pytest.mark.parametrize("bomb", ["laughs", "tagged"])
def test_a_bomb_in_a_run_folder_is_refused_by_resume(bomb, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.json").write_text('{"status": "interrupted"}')
    BOMBS[bomb](tmp_path / "config.yaml")
    assert "config.yaml" in refuse(["train", f"resume={tmp_path}"], capfd)


def test_what_a_person_writes_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("a: {b: [1, 2.5, null, x]}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"b": [1, 2.5, None, "x"]}}
