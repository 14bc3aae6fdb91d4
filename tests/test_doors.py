"""The open doors: what a folder adds to a copy of the package, or gives by -cd, is found wherever entries are read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
Call = Callable[..., str]


def write_documented_block(folder: Path) -> Path:
    """Write the block of docs/extending.md into a folder."""
    text, end = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), 0
    folder.mkdir(parents=True)
    for fence in FENCE.finditer(text):
        named = re.findall(r"`my/block/confidence/(\w+\.\w+)`", text[end : fence.start()])
        if named:
            (folder / named[-1]).write_text(fence[1], encoding="utf-8")
        end = fence.end()
    return folder


@pytest.fixture(params=["in the package", "in a user's folder"])
def call(request: pytest.FixtureRequest, tmp_path: Path) -> Call:
    """Run a command with the block in a copy of the package, where nothing else is edited, or under -cd DIR."""
    if request.param == "in the package":
        root, flags = tmp_path / "copy", []
        shutil.copytree(ROOT / "avatar_bench", root / "avatar_bench", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "conf", root / "conf")
        write_documented_block(root / "avatar_bench" / "evaluation" / "blocks" / "confidence")
    else:
        root, flags = ROOT, ["-cd", str(tmp_path / "my")]
        write_documented_block(tmp_path / "my" / "block" / "confidence")
    environment = os.environ | {"PYTHONPATH": str(root)}

    def run(*words: str, code: str = "") -> str:
        given = ["-c", code] if code else ["-m", "avatar_bench", *words, *flags]
        done = subprocess.run(
            [sys.executable, *given], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_one_folder_adds_a_block_everywhere(call: Call, tiny_run: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("first", "second"):
        shutil.copytree(tiny_run, runs / name, ignore=shutil.ignore_patterns("evaluation"))
    assert "confidence" in call("list", "blocks")
    assert "block.confidence.threshold=0.9" in call("evaluate", "--help", "block=confidence")

    words = ["evaluate", f"ckpt={runs}", "data.workers=0", "block=[blind_test,confidence,overview]"]
    call(*words, "block.blind_test.resamples=100", "block.confidence.threshold=.5")
    place = runs / "first" / "evaluation" / "test" / "confidence"
    saved = json.loads((place / "metrics.json").read_text(encoding="utf-8"))
    assert saved["metrics"]["accuracy_if_confident"]["value"] is not None
    assert {file.name for file in place.iterdir()} == {"metrics.json", "by_class.csv", "by_class.png", "by_class.svg"}
    columns = (runs / "evaluation" / "test" / "overview" / "runs.csv").read_text().splitlines()[0]
    assert "accuracy_if_confident" in columns

    call("report", f"runs={runs}", "lang=en")
    english = (runs / "report.md").read_text(encoding="utf-8")
    call("report", f"runs={runs}", "lang=ru")
    russian = (runs / "report.md").read_text(encoding="utf-8")
    for page, texts in (
        (
            english,
            ("Confidence: how often is the run sure", "A run that is rarely confident", "Confident predictions by"),
        ),
        (
            russian,
            ("Уверенность: как часто модель уверена", "Модель, которая редко уверена", "Уверенные предсказания по"),
        ),
    ):
        assert [text for text in texts if text not in page] == []
    board = english.partition("Leaderboard on")[2].partition("\n\n")[2].splitlines()[0]
    assert "accuracy where confident" in board
    assert "доля верных среди уверенных" in russian
    assert (place / "ru" / "by_class.svg").read_text(encoding="utf-8").count("уверенных") > 0


def test_one_folder_adds_a_block_to_all_and_to_the_documentation(call: Call, tmp_path: Path) -> None:
    assert "confidence" in call("evaluate", "block=all", "--cfg", "job")
    folder = f"folders = [{str(tmp_path / 'my')!r}]"
    script = f"""
import runpy
from avatar_bench.config.entries import use_folders
from avatar_bench.commands.completion import complete
{folder}
pages = runpy.run_path({str(ROOT / "scripts" / "block_pages.py")!r})
with use_folders(folders):
    print(pages["render_index"](), pages["render_definitions"](), complete(["evaluate", "block=conf"]))
    print(complete(["evaluate", "block=confidence", "block.confidence.thr"]))
"""
    printed = call(code=script)
    assert "[confidence](confidence.md) | how often is it confident, and how accurate is it then? |" in printed
    assert "**confident prediction**" in printed
    assert "block=confidence" in printed
    assert "block.confidence.threshold=" in printed
