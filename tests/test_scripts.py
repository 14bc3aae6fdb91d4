"""Scripts of the checkout: the environment they create, and the complete demo."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pandas as pd
import pytest

from tests.builders.commands import read_record

ROOT = Path(__file__).parents[1]
DEMO = [f"runs/demo/{model}" for model in ("efficientnet_lite0", "mobilenetv2")]
PARTS = ("avatar_bench", "conf", "scripts", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")


def call(folder, *words, **variables):
    """Run a script of a checkout as from a plain terminal."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(words, cwd=folder, env=kept | variables, capture_output=True, text=True, check=False)


def make_checkout(folder, parts):
    """Copy parts of the checkout; its environment has the packages of ours except the project."""
    folder.mkdir()
    for part in parts:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    ours = sysconfig.get_paths()
    within = ours["purelib"].removeprefix(sys.prefix).lstrip("/")
    (folder / ".venv" / within / "ours.pth").write_text(ours["purelib"])
    (folder / ".venv" / "bin" / "ruff").symlink_to(Path(ours["scripts"]) / "ruff")
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return make_checkout(tmp_path_factory.mktemp("scripts") / "a checkout", PARTS)


def bare(folder, python):
    """Return a PATH without any python, or with one python3 that is a script."""
    folder.mkdir()
    for tool in ("bash", "env", "dirname", "cat", "cksum", "grep"):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    if python:
        (folder / "python3").write_text(f"#!/usr/bin/env bash\n{python}\n")
        (folder / "python3").chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("python", "message"),
    [
        (None, "Python 3.11 to 3.14 is needed"),
        ("exit 1", "Python 3.11 to 3.14 is needed"),  # too old
        ("[[ $* != *ensurepip* ]]", "apt-get install python3-venv"),
    ],
)
def test_a_machine_without_a_fitting_python_learns_what_it_lacks(python, message, tmp_path):
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "scripts", copy / "scripts")
    for file in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, copy)
    done = call(copy, "./scripts/demo", PATH=bare(tmp_path / "bin", python))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_runs_and_a_second_time_does_not_train_again(checkout):
    script = checkout / "scripts/demo.py"
    text = script.read_text(encoding="utf-8")
    script.write_text(text.replace(",efficientnet_lite1,", ",", 1), encoding="utf-8")  # two networks show what three do
    first = call(checkout, "./scripts/demo")
    assert first.returncode == 0, first.stderr[-2000:]
    for run in DEMO:
        metrics = json.loads((checkout / run / "evaluation/blind/blind_test/metrics.json").read_text())["metrics"]
        accuracy, balanced = metrics["accuracy"], metrics["balanced_accuracy"]["value"]
        text = f"{run}: accuracy {accuracy['value']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}]"
        assert text in first.stdout
        assert accuracy["population"] == "new sources"
        assert accuracy["units"] >= 8
        assert f"{run}: balanced accuracy {balanced:.3f}; recall: drawing " in first.stdout
        assert balanced > 0.5  # guessing: a third
        record = read_record(checkout / run)
        fit = record["temperature_fit"]
        assert fit["n"] >= 20  # half of val; without it, no temperature is fitted
        assert record["temperature"] == (1 if fit["low"] <= 1 <= fit["high"] else fit["fitted"])
    for split in ("test", "blind"):
        evaluated = [file.parent.name for file in (checkout / f"runs/demo/evaluation/{split}").glob("*/metrics.json")]
        assert {"overview", "significance"} <= set(evaluated)
    assert (checkout / "runs/demo/ensembles/soft_vote/evaluation/blind/blind_test/metrics.json").is_file()
    sets = pd.read_csv(checkout / DEMO[0] / "evaluation/blind/out_of_domain/sets.csv")
    assert set(sets["set"]) == {"blind", "things", "icons", "textures"}
    assert sets["n"].min() > 30
    assert "both sides" not in first.stderr
    for file in ("runs/demo/report.html", "runs/demo/predictions.csv"):
        assert f"  {file}" in first.stdout
        assert (checkout / file).is_file()

    checkpoints = [checkout / run / "checkpoints/best.ckpt" for run in DEMO]
    trained = [file.stat().st_mtime_ns for file in checkpoints]
    text = script.read_text(encoding="utf-8")
    assert "    evaluate = " in text
    script.write_text(text.replace("    evaluate = ", "    return\n    evaluate = ", 1), encoding="utf-8")
    second = call(checkout, "./scripts/demo", PIP_NO_INDEX="1")
    assert second.returncode == 0, second.stderr[-2000:]
    assert [file.stat().st_mtime_ns for file in checkpoints] == trained
    assert "Collecting" not in second.stdout


@pytest.mark.slow
def test_the_test_script_checks_the_code_and_hands_its_arguments_to_pytest(tmp_path):
    folder = make_checkout(tmp_path / "small", ("pyproject.toml", "constraints.txt", "README.md"))
    (folder / "scripts").mkdir()
    for name in ("test", "environment"):
        shutil.copy(ROOT / "scripts" / name, folder / "scripts")
    for file, text in {
        "avatar_bench/__init__.py": '"""Package."""\n',
        "studies/a_study.py": '"""Study."""\n',
        "tests/test_a.py": "def test_a() -> None:\n    pass\n\n\ndef test_b() -> None:\n    raise AssertionError\n",
    }.items():
        (folder / file).parent.mkdir()
        (folder / file).write_text(text, encoding="utf-8")
    wanted = "cat pyproject.toml constraints.txt | cksum > .venv/installed-dev"  # as if all were installed
    assert call(folder, "bash", "-c", wanted).returncode == 0
    for words, code, counts in ((["-k", "not test_b"], 0, "1 passed"), ([], 1, "1 failed, 1 passed")):
        done = call(folder, "./scripts/test", "tests/test_a.py", "-q", *words)
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
        assert "Success: no issues found" in done.stdout
        passed, took = done.stdout.splitlines()[-2:]
        assert counts in passed
        assert re.fullmatch(r"Took \d+ min \d+ s", took)
