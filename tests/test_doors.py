"""The open doors: what a folder adds to a copy of the package, or gives by -cd, is found wherever entries are read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.commands import read_result
from tests.builders.walks import walk

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
TEXTS = {
    "en": ("Confidence: how often is the run sure", "A run that is rarely confident", "Confident predictions by"),
    "ru": (
        *("Уверенность: как часто модель уверена", "Модель, которая редко уверена", "Уверенные предсказания по"),
        "доля верных среди уверенных",
    ),
}
FENCE = re.compile(r"^```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


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


@pytest.mark.parametrize("is_in_package", [True, False])
def test_one_folder_adds_a_block_everywhere_and_to_the_documentation(
    is_in_package: bool, tiny_run: Path, tmp_path: Path
) -> None:
    """The block lies in a copy of the package, where nothing else is edited, or under -cd DIR."""
    if is_in_package:
        root, flags = tmp_path / "copy", []
        shutil.copytree(ROOT / "avatar_bench", root / "avatar_bench", ignore=shutil.ignore_patterns("*.pyc.*"))
        shutil.copytree(ROOT / "conf", root / "conf")
        write_documented_block(root / "avatar_bench" / "evaluation" / "blocks" / "confidence")
    else:
        root, flags = ROOT, ["-cd", str(tmp_path / "my")]
        write_documented_block(tmp_path / "my" / "block" / "confidence")
    runs = tmp_path / "runs"
    for name in ("first", "second"):
        shutil.copytree(tiny_run, runs / name, ignore=shutil.ignore_patterns("evaluation"))
    blocks = ["block=[blind_test,confidence,overview]", "block.blind_test.resamples=100"]
    commands = [
        ["list", "blocks"],
        ["evaluate", "--help", "block=confidence"],
        ["evaluate", "block=all", "--cfg", "job"],
        ["evaluate", f"ckpt={runs}", "data.workers=0", *blocks, "block.confidence.threshold=.5"],
        ["report", f"runs={runs}", "lang=en", f"out={runs / 'en.html'}"],
        ["report", f"runs={runs}", "lang=ru", f"out={runs / 'ru.html'}"],
    ]
    ends = walk([[*words, *flags] for words in commands], tmp_path, str(root))
    assert [code for code, _, _ in ends] == [0] * len(commands), ends
    listed, helped, composed, *_ = (out for _, out, _ in ends)
    assert "confidence" in listed
    assert "block.confidence.threshold=0.9" in helped
    assert "confidence" in composed
    saved = read_result(runs / "first", "test", "confidence")
    assert saved["metrics"]["accuracy_if_confident"]["value"] is not None
    folder = runs / "first" / "evaluation" / "test" / "confidence"
    names = {"metrics.json", "by_class.csv", "by_class.png", "by_class.svg", "ru"}
    assert {file.name for file in folder.iterdir()} == names
    columns = (runs / "evaluation" / "test" / "overview" / "runs.csv").read_text().splitlines()[0]
    assert "accuracy_if_confident" in columns
    pages = {language: (runs / f"{language}.md").read_text(encoding="utf-8") for language in TEXTS}
    for language, page in pages.items():
        assert [text for text in TEXTS[language] if text not in page] == []
    board = pages["en"].partition("Leaderboard on")[2].partition("\n\n")[2].splitlines()[0]
    assert "accuracy where confident" in board
    assert "уверенных" in (folder / "ru" / "by_class.svg").read_text(encoding="utf-8")

    script = f"""
import runpy
from avatar_bench.config.entries import use_folders
from avatar_bench.commands.completion import complete
pages = runpy.run_path({str(ROOT / "scripts" / "block_pages.py")!r})
with use_folders([{str(tmp_path / "my")!r}]):
    print(pages["render_index"](), pages["render_definitions"](), complete(["evaluate", "block=conf"]))
    print(complete(["evaluate", "block=confidence", "block.confidence.thr"]))
"""
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert "[confidence](confidence.md) | how often is it confident, and how accurate is it then? |" in printed
    assert "**confident prediction**" in printed
    assert "block=confidence" in printed
    assert "block.confidence.threshold=" in printed
