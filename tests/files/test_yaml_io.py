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


def merged_laughs(file: Path) -> None:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{n}: &a{n} {{b: *a{n - 1}, c: *a{n - 1}, <<: *a{n - 1}}}" for n in range(1, 30)]
    file.write_text("\n".join(lines))


def long_alias(file: Path) -> None:
    file.write_text(f"a: &a {'x' * 500_000}\nb: [{', '.join(['*a'] * 1000)}]\n")


def loop(file: Path) -> None:
    file.write_text("a: &a [*a]\n")


def deep_flow(file: Path) -> None:
    file.write_text("a: " + "[" * 100_000 + "]" * 100_000)


def deep_block(file: Path) -> None:
    file.write_text("\n".join(" " * n + "a:" for n in range(1000)))


def gigabyte(file: Path) -> None:
    with file.open("wb") as stream:
        stream.write(b"a: 1\n#")
        stream.truncate(1 << 30)


def huge_scalar(file: Path) -> None:
    file.write_text("a: " + "x" * 100_000_000)


def many(file: Path) -> None:
    file.write_text("a: [" + "1," * 200_000 + "]")


def binary(file: Path) -> None:
    file.write_bytes(bytes(range(256)) * 10)


def huge_number(file: Path) -> None:
    file.write_text(f"a: {'9' * 10_000}\n")


def unreadable(file: Path) -> None:
    file.write_text("a: [1, 2\nb: }")


def tagged(file: Path) -> None:
    file.write_text("a: !!python/object/apply:os.system ['touch it-ran']\n")


def special(file: Path) -> None:
    os.mkfifo(file)


BOMBS = (
    *(laughs, merged_laughs, long_alias, loop, deep_flow, deep_block, gigabyte, huge_scalar, many),
    *(binary, huge_number, unreadable, tagged, special),
)
bombs = pytest.mark.parametrize("make", BOMBS, ids=lambda make: make.__name__)


@bombs
def test_a_bomb_is_refused_soon_and_in_little_memory(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "a.yaml")
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


@pytest.mark.parametrize("make", [binary, huge_number, unreadable, tagged], ids=lambda make: make.__name__)
def test_what_is_no_yaml_in_a_folder_of_ones_own_ends_the_command(
    make: Callable[[Path], None], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "mode").mkdir(parents=True)
    make(tmp_path / "conf" / "mode" / "bomb.yaml")
    assert main(["train", "data=folder", "data.root=none", "-cd", "conf", "mode=bomb"]) == 2
    err = capfd.readouterr().err
    assert "bomb" in err
    assert len(err.splitlines()) <= 3
    assert not (tmp_path / "it-ran").exists()


@bombs
def test_a_bomb_in_a_run_folder_is_refused_by_resume_and_unread_by_others(
    make: Callable[[Path], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"status": "interrupted"}')
    make(tmp_path / "run" / "config.yaml")
    assert read_config(tmp_path / "run") == {}
    if make is not special:
        assert main(["train", f"resume={tmp_path / 'run'}"]) == 2
        err = capfd.readouterr().err
        assert "config.yaml" in err
        assert len(err.splitlines()) <= 3


def test_what_a_person_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: {b: [1, 2.5, null, x]}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"b": [1, 2.5, None, "x"]}}
