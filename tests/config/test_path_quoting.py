"""Paths on the command line without the name of an option."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avatar_bench.cli.app import main
from avatar_bench.config.catalogue import PLAIN_COMMANDS, find_commands
from avatar_bench.config.path_quoting import find_main_option, make_words, name_bare_paths, quote_paths
from avatar_bench.errors import ConfigError

pytestmark = pytest.mark.usefixtures("_in_empty_folder")


@pytest.fixture
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_main_option_of_a_command_is_a_path() -> None:
    found = {command: find_main_option(command) for command in find_commands() if command not in PLAIN_COMMANDS}
    assert {command: name for command, name in found.items() if name} == {
        **dict.fromkeys(("app", "evaluate", "calibrate", "export", "push"), "ckpt"),
        "predict": "input",
        "report": "runs",
    }


@pytest.mark.parametrize("name", ["a=b.jpg", "a, b.jpg", "it's.jpg", "[1].jpg"])
def test_a_path_that_exists_is_the_value_of_the_main_option(name: str) -> None:
    Path(name).touch()
    assert name_bare_paths("predict", ["workers=0", name]) == [f"input={name}", "workers=0"]


@pytest.mark.parametrize("word", ["-", "@list.txt", "photos/*.png", "hf:someone/avatars"])
def test_other_inputs_of_predict_stand_alone_too(word: str) -> None:
    assert name_bare_paths("predict", [word]) == [f"input={word}"]


def test_several_paths_are_a_list() -> None:
    for name in ("a.jpg", "b, c.jpg"):
        Path(name).touch()
    assert quote_paths("predict", name_bare_paths("predict", ["a.jpg", "b, c.jpg"])) == ["input=['a.jpg','b, c.jpg']"]


def test_an_option_is_no_path_even_if_a_file_has_its_name() -> None:
    Path("workers=0").touch()
    assert name_bare_paths("predict", ["workers=0"]) == ["workers=0"]


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        ("predict", ["phoot.jpg"], "'phoot.jpg': no such file or folder"),
        ("evaluate", ["a", "=", "b"], "option=value, without spaces around the ="),
        ("train", ["resnet18"], "'resnet18': expected option=value"),
        ("predict", ["here", "input=there"], "input= is given twice"),
    ],
)
def test_a_word_that_is_neither_path_nor_option_is_refused(command: str, words: list[str], expected: str) -> None:
    Path("here").touch()
    with pytest.raises(ConfigError) as caught:
        name_bare_paths(command, words)
    assert expected in caught.value.lines[0]


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("train", ["For images of your own: data=folder data.root=."]),
        ("prepare", ["For images of your own: source=folder source.folder.root=."]),
        ("doctor", []),
    ],
)
def test_a_folder_given_to_a_command_without_a_main_option_is_advised_as_the_root_of_the_data(
    command: str, advice: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        name_bare_paths(command, ["."])
    assert list(caught.value.lines[1:]) == advice


@pytest.mark.parametrize(
    ("command", "words", "meant"),
    [("train", ["resnet18"], "model=resnet18"), ("evaluate", ["here", "robustness"], "block=robustness")],
)
def test_the_group_of_a_bare_choice_is_suggested(command: str, words: list[str], meant: str) -> None:
    Path("here").touch()
    with pytest.raises(ConfigError) as caught:
        name_bare_paths(command, words)
    assert caught.value.lines[1] == f"Did you mean {meant}?"


def test_the_first_guess_of_a_person_works(tiny_run: Path, images: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, some = shutil.copytree(tiny_run, "my run = 1"), sorted((images / "blind").rglob("*.png"))[:2]
    assert main(["evaluate", run, "block=blind_test", "data.workers=0"]) == 0
    assert list(Path(run).glob("evaluation/*/blind_test/metrics.json"))
    assert main(["report", run]) == 0
    assert Path(run, "report.html").is_file()
    assert main(["export", run]) == 0
    assert json.loads(Path(run, "network.json").read_text())["file"] == "network.onnx"
    assert Path(run, "network.onnx").is_file()
    capfd.readouterr()
    assert main(["predict", *map(str, some), f"ckpt={run}", "workers=0"]) == 0
    bare = capfd.readouterr().out
    assert main(["predict", f"input={some[0]}", f"ckpt={run}", "workers=0", "output=-"]) == 0
    header, row, other = bare.splitlines()
    assert capfd.readouterr().out.splitlines()[0] == header
    assert [line.partition(",")[0] for line in (row, other)] == [str(file) for file in some]


def test_values_of_python_are_written_as_words_of_the_command_line() -> None:
    options: dict[str, Any] = {
        "data__split__seed": 3,
        "data.fraction": np.float64(0.5),
        "hydra/launcher": "joblib",
        "update": True,
        "target_error": None,
        "precision": "32",
        "block": ["robustness", "calibration"],
        "data__split__held_out": ["a, b", "it's"],
        "out": Path("a, b"),
        "ckpt": ["a", Path("it's")],
        "data__ood": {"far": Path("my dir")},
        "model__options": {"depth": 2, "name": "x y"},
    }
    assert make_words("evaluate", options) == [
        "data.split.seed=3",
        "data.fraction=0.5",
        "hydra/launcher=joblib",
        "update=true",
        "target_error=null",
        "precision='32'",
        "block=[robustness,calibration]",
        "data.split.held_out=['a, b','it\\'s']",
        "out=a, b",
        "ckpt=[a,it's]",
        "data.ood={far: my dir}",
        "model.options={depth: 2, name: 'x y'}",
    ]
