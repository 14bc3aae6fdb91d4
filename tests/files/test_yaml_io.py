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
from tests.builders.run_files import write_file


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


@pytest.mark.parametrize(
    ("bomb", "file", "words"),
    [
        *(
            (bomb, "my/mode/bomb.yaml", "-cd my mode=bomb")
            for bomb in ("binary", "huge number", "unreadable", "tagged")
        ),
        *((bomb, "config.yaml", "resume=.") for bomb in ("laughs", "tagged")),
    ],
)
def test_a_bomb_in_a_folder_of_ones_own_or_of_a_run_ends_the_command(bomb, file, words, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_file(tmp_path / "run.json", '{"status": "interrupted"}')
    BOMBS[bomb](write_file(tmp_path / file, ""))
    data = [] if file == "config.yaml" else ["data=folder", "data.root=none"]
    assert main(["train", *data, *words.split()]) == 2
    err = capfd.readouterr().err
    assert Path(file).stem in err
    assert len(err.splitlines()) <= 3
    assert not Path("it-ran").exists()
