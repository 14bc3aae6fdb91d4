"""A corruption in a user's folder, from evaluate to the report, as a user types the commands."""

import shutil

import pandas as pd
import pytest

from avatar_bench.cli.app import main

CODE = (
    '"""Upside down."""\nPARAMETERS = (1, 2, 3, 4, 5)\ndef corrupt(image, parameter, seed):\n    return image[::-1]\n'
)
BLOCKS = ["block=[robustness,calibration,overview]", "block.robustness.severities=[3]", "block.robustness.delivery=[]"]


@pytest.fixture
def runs(tiny_run, tmp_path):
    """Return a folder of two equal runs, beside a folder of a corruption, mine/corruption/upside."""
    (tmp_path / "mine" / "corruption").mkdir(parents=True)
    (tmp_path / "mine" / "corruption" / "upside.py").write_text(CODE)
    (tmp_path / "mine" / "corruption" / "upside.yaml").write_text("title: turned over\nru: {title: перевёрнутое}\n")
    for name in ("a", "b"):
        found = shutil.ignore_patterns("evaluation", "predictions")
        shutil.copytree(tiny_run, tmp_path / "runs" / name, ignore=found)
    return tmp_path / "runs"


@pytest.mark.slow
def test_it_is_in_every_table_and_in_the_report_under_its_title(runs, tmp_path):
    mine = ["-cd", str(tmp_path / "mine")]
    quick = [f"block.{name}.resamples=100" for name in ("robustness", "calibration")]
    words = ["evaluate", *mine, *BLOCKS[1:], *quick, "block.calibration.severity=3", "data.workers=1"]
    assert main([*words, f"ckpt={runs / 'a'}", "block=[robustness,calibration]"]) == 0
    shutil.rmtree(runs / "b")
    shutil.copytree(runs / "a", runs / "b")  # with its results
    assert main([*words, f"ckpt={runs}", BLOCKS[0]]) == 0
    rows = {
        "a/evaluation/test/robustness/severities.csv": "corruption",
        "a/evaluation/test/calibration/shift.csv": "set",
        "evaluation/test/overview/robustness.csv": "metric",
    }
    for file, column in rows.items():
        table = set(pd.read_csv(runs / file)[column])
        assert {"upside", "sticker", "noise"} <= table, file
    assert main(["report", *mine, f"runs={runs}"]) == 0
    assert "turned over" in (runs / "report.html").read_text(encoding="utf-8")
    assert main(["report", *mine, f"runs={runs}", "lang=ru"]) == 0
    page = (runs / "report.html").read_text(encoding="utf-8")
    assert all(title in page for title in ("перевёрнутое", "круглая обрезка", "шум"))
    assert main(["report", f"runs={runs}"]) == 0  # without its folder it is shown by its name
    assert "upside" in (runs / "report.html").read_text(encoding="utf-8")


def test_a_change_of_its_code_is_evaluated_again(runs, tmp_path, capsys):
    words = ["evaluate", "-cd", str(tmp_path / "mine"), f"ckpt={runs / 'a'}", *BLOCKS[1:], "block=robustness"]
    words += ["block.robustness.corruptions=[upside]", "block.robustness.resamples=100", "data.workers=0"]
    assert [main(words), main(words)] == [0, 0]
    assert "already there" in capsys.readouterr().out
    (tmp_path / "mine" / "corruption" / "upside.py").write_text(CODE.replace("image[::-1]", "0 * image"))
    assert main(words) == 0
    assert "already there" not in capsys.readouterr().out
    (tmp_path / "mine" / "corruption" / "upside.py").write_text(CODE.replace("image[::-1]", "image[:-1]"))
    assert main([*words, "data.workers=1"]) == 2
    assert "upside.py failed: ValueError" in capsys.readouterr().err
