"""Files of YAML: what multiplies itself, or is huge or deep, is refused in a second."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from avatar_bench.cli.app import main
from avatar_bench.errors import ConfigError
from avatar_bench.files.yaml_io import MAX_YAML_BYTES, read_yaml
from avatar_bench.runs.record import read_config


def laughs(file: Path) -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    file.write_text("\n".join(lines))


def loop(file: Path) -> None:
    file.write_text("a: &a [*a]\n")


def deep_flow(file: Path) -> None:
    file.write_text("a: " + "[" * 100_000 + "]" * 100_000)


def gigabyte(file: Path) -> None:
    with file.open("wb") as stream:
        stream.write(b"a: 1\n#")
        stream.truncate(1 << 30)


def many(file: Path) -> None:
    file.write_text("a: [" + "1," * 200_000 + "]")


def huge_number(file: Path) -> None:
    file.write_text(f"a: {'9' * 10_000}\n")


def tagged(file: Path) -> None:
    file.write_text("a: !!python/object/apply:os.system ['touch it-ran']\n")


def special(file: Path) -> None:
    os.mkfifo(file)


BOMBS = (laughs, loop, deep_flow, gigabyte, many, huge_number, tagged, special)


@pytest.mark.parametrize("make", BOMBS, ids=lambda make: make.__name__)
def test_a_bomb_is_refused_soon_and_in_little_memory(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "a.yaml")
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / "config.yaml")
    assert read_config(tmp_path / "run") == {}
    begun = time.process_time()
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        read_yaml(tmp_path / "a.yaml")
    assert time.process_time() - begun < 1
    tracemalloc.start()
    with pytest.raises(ConfigError):
        read_yaml(tmp_path / "a.yaml")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * MAX_YAML_BYTES


@pytest.mark.parametrize("make", [huge_number, tagged], ids=lambda make: make.__name__)
def test_what_is_no_yaml_in_a_folder_of_ones_own_ends_the_command(
    make: Callable[[Path], None], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "mode").mkdir(parents=True)
    make(tmp_path / "conf" / "mode" / "bomb.yaml")
    assert main(["train", "data=folder", "data.root=none", "-cd", "conf", "mode=bomb"]) == 2
    told = capfd.readouterr().err
    assert "bomb" in told
    assert len(told.splitlines()) <= 3
    assert not (tmp_path / "it-ran").exists()


def test_what_a_person_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: {b: [1, 2.5, null, x]}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"b": [1, 2.5, None, "x"]}}
