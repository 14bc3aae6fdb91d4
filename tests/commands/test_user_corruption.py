"""A corruption in a user's folder, from evaluate to the report, as a user types the commands."""

import shutil

import pandas as pd
import pytest

from tests.builders.commands import copy_run

CODE = (
    '"""Upside down."""\nPARAMETERS = (1, 2, 3, 4, 5)\ndef corrupt(image, parameter, seed):\n    return image[::-1]\n'
)
QUICK = ["block.robustness.severities=[3]", "block.robustness.delivery=[]", "block.robustness.resamples=100"]


@pytest.fixture
def corruption(tmp_path):
    """Write the corruption mine/corruption/upside, and return its file."""
    file = tmp_path / "mine" / "corruption" / "upside.py"
    file.parent.mkdir(parents=True)
    file.write_text(CODE)
    file.with_suffix(".yaml").write_text("title: turned over\nru: {title: перевёрнутое}\n")
    return file


@pytest.mark.slow
def test_it_is_in_every_table_and_in_the_report_under_its_title(tiny_run, corruption, tmp_path, command):
    mine, runs = ["-cd", tmp_path / "mine"], tmp_path / "runs"
    copy_run(tiny_run, runs / "a")
    words = ["evaluate", *mine, *QUICK, "block.calibration.resamples=100", "block.calibration.severity=3"]
    command(*words, "data.workers=1", f"ckpt={runs / 'a'}", "block=[robustness,calibration]")
    shutil.copytree(runs / "a", runs / "b")  # with its results
    command(*words, "data.workers=1", f"ckpt={runs}", "block=[robustness,calibration,overview]")
    columns = {
        "a/evaluation/test/robustness/severities.csv": "corruption",
        "a/evaluation/test/calibration/shift.csv": "set",
        "evaluation/test/overview/robustness.csv": "metric",
    }
    for file, column in columns.items():
        assert {"upside", "sticker", "noise"} <= set(pd.read_csv(runs / file)[column]), file
    russian = ("перевёрнутое", "круглая обрезка", "шум")
    for words, titles in ((mine, ("turned over",)), ([*mine, "lang=ru"], russian), ([], ("upside",))):
        command("report", f"runs={runs}", *words)  # without its folder it is shown by its name
        page = (runs / "report.html").read_text(encoding="utf-8")
        assert [title for title in titles if title not in page] == []


def test_a_change_of_its_code_is_evaluated_again(run_copy, corruption, tmp_path, command):
    words = ["evaluate", "-cd", tmp_path / "mine", f"ckpt={run_copy}", *QUICK, "block=robustness"]
    words += ["block.robustness.corruptions=[upside]", "data.workers=0"]
    command(*words)
    assert "already there" in command(*words).out
    corruption.write_text(CODE.replace("image[::-1]", "0 * image"))
    assert "already there" not in command(*words).out
    corruption.write_text(CODE.replace("image[::-1]", "image[:-1]"))
    assert "upside.py failed: ValueError" in command(*words, "data.workers=1", code=2).err
