"""Documents: bombs of YAML are refused in a second, and values by their types, at their place."""

import os
import random
import struct
import time
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Gt

from avatar_bench.cli.app import main
from avatar_bench.errors import ConfigError
from avatar_bench.files.document import (
    MAX_YAML_BYTES,
    Check,
    Document,
    OpenDocument,
    matching,
    parse,
    parse_json,
    read_yaml,
)
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


@dataclass(frozen=True)
class Part(Document):
    side: int
    word: Annotated[str, matching("[a-z]+", "small letters")] = "a"


@dataclass(frozen=True)
class Whole(OpenDocument):
    names: Annotated[tuple[str, ...], Check(lambda names: "" if len(set(names)) == len(names) else "a name is twice")]
    ratio: Annotated[float, Gt(0)] = 1.0
    parts: dict[str, Part] = field(default_factory=dict)
    values: Any = None


def test_a_document_is_made_of_plain_values_with_every_digit_and_further_keys_only_where_they_may_be():
    numbers = [random.Random(seed).random() for seed in range(2000)]
    numbers += [number for (number,) in struct.iter_unpack("d", random.Random(0).randbytes(16_000)) if number == number]
    made = parse(Whole, {"names": ["a", "b"], "parts": {"x": {"side": 3}}, "values": numbers, "more": 1})
    assert (made.names, made.ratio, made.parts) == (("a", "b"), 1.0, {"x": Part(3)})
    assert made.values == numbers
    assert parse(Whole, {"names": (), "ratio": 2}).ratio == 2.0  # an integer is a number


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ([1], r"it is \[1\]; expected an object"),
        ({}, "names is missing"),
        ({"names": "ab"}, "names is 'ab'; expected a valid array"),
        ({"names": ["a", 1]}, r"names\.1 is 1; expected a valid string"),
        ({"names": ["a", "a"]}, "names: a name is twice"),
        ({"names": [], "ratio": 0}, "ratio is 0; expected greater than 0"),
        ({"names": [], "ratio": True}, "ratio is True; expected a valid number"),
        ({"names": [], "ratio": float("nan")}, "ratio is nan; expected a finite number"),
        ({"names": [], "ratio": 10**400}, "ratio is"),
        ({"names": [], "parts": {"x": {"side": 3.0}}}, r"parts\.x\.side is 3\.0; expected a valid integer"),
        ({"names": [], "parts": {"x": {"side": 3, "sides": 3}}}, r"parts\.x\.sides is not known"),
        ({"names": [], "parts": {"x": {"side": 3, "word": "A" * 999}}}, r"word is 'A{79}; expected small letters$"),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_what_is_expected_there(stated, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(Whole, stated)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["NaN", "[-Infinity]", "[" * 100_000, "{", ""])
def test_json_that_is_not_strict_or_too_deep_is_refused(text):
    with pytest.raises(ValueError, match=r"JSON|nested|Expecting"):
        parse_json(text)
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(ValueError, match=r"recursion|deep"):
        parse(Whole, {"names": [], "values": deep})
