"""import of a user's own detector: called once for an image, refused if changed, and forgiven a failure."""

import re

import numpy as np
import pandas as pd
import pytest

from avatar_bench.cli.app import main
from avatar_bench.data.dataset import read_manifest
from tests.builders.commands import data_of, read_record, read_result

CODE = '''
"""Brightness of an image, with a log of the images asked for."""

import os
import time
from dataclasses import dataclass

import numpy as np


@dataclass(kw_only=True)
class Brightness:
    """Detector by brightness; it fails on the images whose number is in `fails`, and stops at the one in `stops`."""

    classes = ("drawing", "generated", "real")
    log: str
    fails: str = ""
    stops: int = -1

    def predict(self, images):
        found = []
        for image in images:
            n = len(open(self.log).readlines()) if os.path.exists(self.log) else 0
            if n == self.stops:
                open(f"{self.log}.stopped", "w").close()
                time.sleep(600)
            with open(self.log, "a") as log:
                log.write(f"{image.mean():.9f}\\n")
            if f" {n} " in f" {self.fails} " or self.fails == f"from {min(n, 5)}":
                raise RuntimeError(f"no answer\\nfor {n}")
            odds = np.exp(-20 * (image.mean() / 255 - np.array([0.7, 0.5, 0.3])) ** 2)
            found.append(odds / odds.sum())
        return np.array(found)
'''


@pytest.fixture
def my(tmp_path):
    folder = tmp_path / "my"
    (folder / "detector").mkdir(parents=True)
    (folder / "detector" / "brightness.py").write_text(CODE.lstrip(), encoding="utf-8")
    (folder / "detector" / "brightness.yaml").write_text("licence: MIT\norigin: a test\n", encoding="utf-8")
    return folder


@pytest.fixture
def run(my, tmp_path):
    """Return a function that imports the detector with options, and returns the run folder."""

    def make(options="", *words, code=0):
        out = tmp_path / "run"
        words = [f"options={{log: {tmp_path / 'log'}{options}}}", f"out={out}", *words]
        assert main(["import", "-cd", str(my), "kind=brightness", *words]) == code
        assert out.exists() == (code == 0)
        assert not list(tmp_path.glob(".run*"))
        return out

    return make


@pytest.fixture
def evaluate(images, my, tmp_path):
    """Return the words of an evaluation of tmp_path/run on the blind set."""
    data = [*data_of(images / "blind.csv"), "data.name=new", "data.workers=0"]
    return ["evaluate", "-cd", str(my), f"ckpt={tmp_path / 'run'}", "block.blind_test.resamples=100", *data]


@pytest.fixture
def predict(images, my, tmp_path, command):
    """Return a function that predicts the blind set by tmp_path/run, and returns the table and what is printed."""
    words = ["predict", "-cd", my, f"ckpt={tmp_path / 'run'}", f"input={images / 'blind'}"]

    def run(code=0):
        err = command(*words, f"output={tmp_path / 'out.csv'}", code=code).err
        return pd.read_csv(tmp_path / "out.csv") if (tmp_path / "out.csv").exists() else None, err

    return run


def calls(tmp_path):
    return (tmp_path / "log").read_text().splitlines()


def test_a_detector_is_called_once_for_each_image(run, evaluate, predict, images, tmp_path, command):
    record = read_record(run())
    assert [record[name] for name in ("status", "kind", "licence", "source")] == [
        *("imported", "brightness", "MIT", "a test")
    ]
    assert re.fullmatch("[0-9a-f]{64}", record["detector"]["sha256"])
    command(*evaluate)
    command(*evaluate, "again=true")
    table = predict()[0].set_index("path")
    assert len(calls(tmp_path)) == len(set(calls(tmp_path))) == 42
    blind = read_manifest(images / "blind.csv")
    means = np.array([blind.image(row).mean() / 255 for row in range(len(blind))])
    odds = np.exp(-20 * (means[:, None] - np.array([0.7, 0.5, 0.3])) ** 2)
    rows = table.loc[[str(blind.file(row)) for row in range(len(blind))], [f"prob_{name}" for name in blind.classes]]
    np.testing.assert_allclose(rows, odds / odds.sum(axis=1, keepdims=True), atol=1e-6)


def test_an_evaluation_that_was_killed_continues_where_it_was(run, evaluate, tmp_path, fork):
    folder, child = run(", stops: 15"), fork(*evaluate)
    child.until((tmp_path / "log.stopped").exists)
    child.kill()
    assert len(calls(tmp_path)) == 15
    with (tmp_path / "log").open("a") as log:
        log.write("killed\n")  # so that it does not stop again
    assert main(evaluate) == 0
    assert len(calls(tmp_path)) == len(set(calls(tmp_path))) == 42 + 1
    assert read_result(folder, "new")["n"] == 42


def test_an_image_that_fails_costs_its_row(run, evaluate, predict, tmp_path, command):
    folder = run(", fails: '7'")
    table, _ = predict(code=3)
    assert (table["status"] == "error").sum() == 1
    assert table["reason"].dropna().tolist() == ["RuntimeError: no answer for 7"]
    for words, code in (((), 3), (("allow=[missing_rows]",), 0)):
        (tmp_path / "log").write_text("0\n" * 7)  # a new command calls it again for the image that failed
        err = command(*evaluate, *words, code=code).err
        assert code == 0 or "has no predictions of 1 of 42 images" in err
    assert read_result(folder, "new")["n"] == 41


def test_twenty_failures_in_a_row_end_the_command_and_predictions_are_kept(run, predict, tmp_path):
    run(", fails: from 5")
    assert "failed on 20 images in a row" in predict(code=3)[1]
    assert len(calls(tmp_path)) == 25
    predict(code=3)
    assert len(calls(tmp_path)) == 45


def test_a_changed_detector_is_refused_unless_allowed(run, my, evaluate, command):
    run()
    file = my / "detector" / "brightness.py"
    file.write_text(file.read_text() + "\n# changed\n")
    assert "has changed since it was imported" in command(*evaluate, code=3).err
    command(*evaluate, "allow=[detector_changed]")
    without = [word for word in evaluate if word not in ("-cd", str(my))]
    assert "there is no detector named 'brightness'" in command(*without, code=2).err


def test_a_detector_that_sends_images_out_needs_permission(run, my, evaluate, tmp_path, command, capsys):
    (my / "detector" / "brightness.yaml").write_text("uploads: true\n")
    run(code=3)
    assert "sends images to others" in capsys.readouterr().err
    run("", "allow=[upload]")
    command(*evaluate, code=3)
    assert not (tmp_path / "log").exists()
    assert "detector brightness sends images to others" in command(*evaluate, "allow=[upload]").err


@pytest.mark.parametrize(
    ("change", "by", "message"),
    [
        ("    log: str\n", "    log: str\n\n    def __post_init__(self):\n        raise KeyError('key')\n", "KeyError"),
        ('    classes = ("drawing", "generated", "real")\n', "", "needs classes"),
        ('("drawing", "generated", "real")', '("drawing",)', "1 classes"),
        ("def predict", "def guess", "predict(images)"),
        ("    stops: int = -1\n", "    stops: int\n", "kind=brightness needs stops="),
    ],
)
def test_a_detector_that_raises_is_an_error_of_three_lines_and_nothing_is_written(change, by, message, run, my, capsys):
    file = my / "detector" / "brightness.py"
    file.write_text(file.read_text().replace(change, by))
    run(code=2)
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) <= 3
