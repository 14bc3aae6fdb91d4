"""Paths on the command line without the name of an option."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from avatar_bench.cli.app import main
from avatar_bench.config.catalogue import PLAIN_COMMANDS, find_commands
from avatar_bench.config.path_quoting import find_main_option, make_words, name_bare_paths, quote_paths
from avatar_bench.errors import ConfigError


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_paths_that_exist_and_other_inputs_are_the_value_of_the_main_option_but_no_option_is():
    commands = set(find_commands()) - set(PLAIN_COMMANDS)
    assert {command: option for command in commands if (option := find_main_option(command))} == {
        **dict.fromkeys(("app", "evaluate", "calibrate", "export", "push"), "ckpt"),
        "predict": "input",
        "measure": "predictions",
        "report": "runs",
    }
    for name in ("a=b.jpg", "a, b.jpg", "it's.jpg", "[1].jpg"):
        Path(name).touch()
        assert name_bare_paths("predict", ["workers=0", name]) == [f"input={name}", "workers=0"]
    word = f"source=[{','.join(['folder'] * 60)}]"
    assert name_bare_paths("prepare", [word]) == [word]
    for name in ("a.jpg", "b, c.jpg", "workers=0"):
        Path(name).touch()
    for word in ("-", "@list.txt", "photos/*.png", "hf:someone/avatars"):
        assert name_bare_paths("predict", [word]) == [f"input={word}"]
    assert quote_paths("predict", name_bare_paths("predict", ["a.jpg", "b, c.jpg"])) == ["input=['a.jpg','b, c.jpg']"]
    assert name_bare_paths("predict", ["workers=0"]) == ["workers=0"]


def test_a_word_that_is_neither_path_nor_option_is_refused_with_what_was_meant():
    for command, words, expected in (
        ("predict", ["phoot.jpg"], "'phoot.jpg': no such file or folder"),
        ("evaluate", ["a", "=", "b"], "option=value, without spaces around the ="),
        ("train", ["resnet18"], "'resnet18': expected option=value.*\nDid you mean model=resnet18\\?$"),
        ("evaluate", ["here", "robustness"], "\nDid you mean block=robustness\\?$"),
        ("predict", ["here", "input=there"], "input= is given twice"),
        ("train", ["."], "\nFor images of your own: data=folder data.root=.$"),
        ("prepare", ["."], "\nFor images of your own: source=folder source.folder.root=.$"),
        ("doctor", ["."], "^[^\n]+$"),
    ):
        Path("here").touch()
        with pytest.raises(ConfigError) as error:
            name_bare_paths(command, words)
        assert re.search(expected, "\n".join(error.value.lines))


def test_the_first_guess_of_a_person_works(tiny_run, images, capfd):
    run, some = shutil.copytree(tiny_run, "my run = 1"), sorted((images / "blind").rglob("*.png"))[:2]
    assert main(["evaluate", run, "block=blind_test", "block.blind_test.resamples=100", "data.workers=0"]) == 0
    assert list(Path(run).glob("evaluation/*/blind_test/metrics.json"))
    capfd.readouterr()
    assert main(["predict", *map(str, some), f"ckpt={run}", "workers=0"]) == 0
    bare = capfd.readouterr().out
    assert main(["predict", f"input={some[0]}", f"ckpt={run}", "workers=0", "output=-"]) == 0
    header, row, other = bare.splitlines()
    assert capfd.readouterr().out.splitlines()[0] == header
    assert [line.partition(",")[0] for line in (row, other)] == [str(file) for file in some]


@pytest.mark.slow
def test_an_export_of_a_bare_path_is_a_network_in_its_folder(run_copy):
    assert main(["export", str(run_copy)]) == 0
    assert json.loads((run_copy / "network.json").read_text())["file"] == "network.onnx"
    assert (run_copy / "network.onnx").is_file()


def test_values_of_python_are_written_as_words_of_the_command_line():
    words = {
        ("data__split__seed", 3): "data.split.seed=3",
        ("data.fraction", np.float64(0.5)): "data.fraction=0.5",
        ("hydra/launcher", "joblib"): "hydra/launcher=joblib",
        ("update", True): "update=true",
        ("target_error", None): "target_error=null",
        ("precision", "32"): "precision='32'",
        ("block", ("robustness", "calibration")): "block=[robustness,calibration]",
        ("data__split__held_out", ("a, b", "it's")): "data.split.held_out=['a, b','it\\'s']",
        ("out", Path("a, b")): "out=a, b",
        ("ckpt", ("a", Path("it's"))): "ckpt=[a,it's]",
    }
    assert make_words("evaluate", dict(words.keys())) == list(words.values())
    mappings = {"data__ood": {"far": Path("my dir")}, "model__options": {"depth": 2, "name": "x y"}}
    assert make_words("evaluate", mappings) == ["data.ood={far: my dir}", "model.options={depth: 2, name: 'x y'}"]
