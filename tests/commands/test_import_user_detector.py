"""import of a user's own detector: asked once for an image, refused if changed, and forgiven a failure."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from avatar_bench.cli.app import main
from avatar_bench.data.dataset import read_manifest

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
        given = [f"options={{log: {tmp_path / 'log'}{options}}}", f"out={out}", *words]
        assert main(["import", "-cd", str(my), "kind=brightness", *given]) == code
        assert out.exists() == (code == 0)
        assert not list(tmp_path.glob(".run*"))
        return out

    return make


def evaluating(images, my, ckpt, *words):
    data = ["data=manifest", f"data.manifest={images / 'blind.csv'}", "data.name=new", "data.workers=0"]
    data.append("block.blind_test.resamples=100")
    return [
        "evaluate",
        "-cd",
        str(my),
        f"ckpt={ckpt}",
        "block=blind_test",
        "block.blind_test.resamples=100",
        *data,
        *words,
    ]


def predict(images, my, ckpt, output, code=0):
    words = [f"ckpt={ckpt}", f"input={images / 'blind'}", f"output={output}"]
    assert main(["predict", "-cd", str(my), *words]) == code


def asked(tmp_path):
    return (tmp_path / "log").read_text().splitlines()


def read_result(run):
    text = (run / "evaluation" / "new" / "blind_test" / "metrics.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def test_a_detector_is_asked_once_for_each_image(run, my, images, tmp_path):
    folder, output = run(), tmp_path / "out.csv"
    record = json.loads((folder / "run.json").read_text())
    known = [record[name] for name in ("status", "kind", "licence", "source")]
    assert known == ["imported", "brightness", "MIT", "a test"]
    assert re.fullmatch("[0-9a-f]{64}", record["detector"]["sha256"])
    assert main(evaluating(images, my, folder)) == 0
    assert main(evaluating(images, my, folder, "again=true")) == 0
    predict(images, my, folder, output)
    assert len(asked(tmp_path)) == len(set(asked(tmp_path))) == 42
    blind = read_manifest(images / "blind.csv")
    means = np.array([blind.image(row).mean() / 255 for row in range(len(blind))])
    odds = np.exp(-20 * (means[:, None] - np.array([0.7, 0.5, 0.3])) ** 2)
    expected = pd.DataFrame(odds / odds.sum(axis=1, keepdims=True), [str(blind.file(row)) for row in range(len(blind))])
    table = pd.read_csv(output, index_col="path").loc[expected.index]
    np.testing.assert_allclose(table[[f"prob_{name}" for name in blind.classes]], expected, atol=1e-6)


def test_an_evaluation_that_was_killed_goes_on_where_it_was(run, my, images, tmp_path, fork):
    folder = run(", stops: 15")
    child = fork(*evaluating(images, my, folder))
    child.until(lambda: (tmp_path / "log.stopped").exists())
    child.kill()
    assert len(asked(tmp_path)) == 15
    with (tmp_path / "log").open("a") as log:
        log.write("killed\n")  # so that it does not stop again
    assert main(evaluating(images, my, folder)) == 0
    assert len(asked(tmp_path)) == len(set(asked(tmp_path))) == 42 + 1
    assert read_result(folder)["n"] == 42


def test_an_image_that_fails_costs_its_row(run, my, images, tmp_path, capsys):
    folder, output = run(", fails: '7'"), tmp_path / "out.csv"
    predict(images, my, folder, output, code=3)
    table = pd.read_csv(output)
    assert (table["status"] == "error").sum() == 1
    assert table["reason"].dropna().tolist() == ["RuntimeError: no answer for 7"]
    (tmp_path / "log").write_text("0\n" * 7)  # the failing image is asked for again, by a new command
    assert main(evaluating(images, my, folder)) == 3
    assert "has no predictions of 1 of 42 images" in capsys.readouterr().err
    (tmp_path / "log").write_text("0\n" * 7)
    assert main(evaluating(images, my, folder, "allow=[missing_rows]")) == 0
    assert read_result(folder)["n"] == 41


def test_twenty_failures_in_a_row_end_the_command_and_answers_are_kept(run, my, images, tmp_path, capsys):
    folder, output = run(", fails: from 5"), tmp_path / "out.csv"
    predict(images, my, folder, output, code=3)
    assert "failed on 20 images in a row" in capsys.readouterr().err
    assert len(asked(tmp_path)) == 25
    predict(images, my, folder, output, code=3)
    assert len(asked(tmp_path)) == 45


def test_a_changed_detector_is_refused_unless_allowed(run, my, images, capsys):
    folder, file = run(), my / "detector" / "brightness.py"
    file.write_text(file.read_text() + "\n# changed\n")
    assert main(evaluating(images, my, folder)) == 3
    assert "has changed since it was imported" in capsys.readouterr().err
    assert main(evaluating(images, my, folder, "allow=[detector_changed]")) == 0
    assert main([word for word in evaluating(images, my, folder) if word not in ("-cd", str(my))]) == 2
    assert "there is no detector named 'brightness'" in capsys.readouterr().err


def test_a_detector_that_sends_images_out_needs_leave(run, my, images, tmp_path, capsys):
    (my / "detector" / "brightness.yaml").write_text("uploads: true\n")
    run(code=3)
    assert "sends images to others" in capsys.readouterr().err
    folder = run("", "allow=[upload]")
    assert main(evaluating(images, my, folder)) == 3
    assert not (tmp_path / "log").exists()
    capsys.readouterr()
    assert main(evaluating(images, my, folder, "allow=[upload]")) == 0
    assert "detector brightness sends images to others" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "by", "reason"),
    [
        ("import os\n", "import os\nraise RuntimeError('no key')\n", "cannot be imported: RuntimeError: no key"),
        ("    log: str\n", "    log: str\n\n    def __post_init__(self):\n        raise KeyError('key')\n", "KeyError"),
        ('    classes = ("drawing", "generated", "real")\n', "", "needs classes"),
        ('("drawing", "generated", "real")', '("drawing",)', "1 classes"),
        ("def predict", "def guess", "predict(images)"),
        ("    stops: int = -1\n", "    stops: int\n", "kind=brightness needs stops="),
    ],
)
def test_a_detector_that_raises_is_an_error_of_three_lines_and_nothing_is_written(change, by, reason, run, my, capsys):
    file = my / "detector" / "brightness.py"
    file.write_text(file.read_text().replace(change, by))
    run(code=2)
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.strip().splitlines()) <= 3


def test_values_that_are_no_probabilities_cost_their_rows(run, my, images, tmp_path):
    file = my / "detector" / "brightness.py"
    file.write_text(file.read_text().replace("return np.array(found)", "return np.array(found) * (1 + (n == 3))"))
    folder, output = run(), tmp_path / "out.csv"
    predict(images, my, folder, output, code=3)
    assert pd.read_csv(output)["reason"].dropna().tolist() == ["it returned no probabilities: their sum is 2"]
