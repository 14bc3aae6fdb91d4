"""What CONTRIBUTING.md says of the code: its tree, the layers, and the files that its tables name."""

from __future__ import annotations

import re
from pathlib import Path

from avatar_bench.config.entries import KINDS
from tests.test_architecture import LAYERS, PACKAGE

ROOT = PACKAGE.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.+?)^```", TEXT, re.MULTILINE | re.DOTALL)
TREE, LAYER_TEXT = (text for language, text in FENCED if not language)
# a path in backticks, of files that exist: without <name>, a space or an option
PATHS = sorted(set(re.findall(r"`((?:\.?/)?[\w.]+(?:/[\w.]*)+|[\w]+\.(?:py|md|toml|yaml))`", TEXT)) - {"../shared"})


def test_the_tree_lists_every_package_and_nothing_else() -> None:
    listed = set(re.findall(r"^  (\w+)/", TREE, re.MULTILINE))
    packages = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert listed == packages


def test_every_folder_that_the_tree_names_exists() -> None:
    named = re.findall(r"(?<![\w/<])(\w+)/(?![<\w])", TREE)
    folders = {
        folder.name
        for base in ("avatar_bench", "conf", "docs", "scripts", "studies", "tests")
        for folder in (ROOT / base, *(ROOT / base).rglob("*"))
        if folder.is_dir()
    }
    assert set(named) <= folders
    assert {Path(folder).name for folder in KINDS.values() if "/" in folder and (PACKAGE / folder).is_dir()} <= set(
        named
    )


def test_every_path_exists() -> None:
    places = (ROOT, PACKAGE, ROOT / "conf", PACKAGE / "evaluation", PACKAGE / "evaluation/blocks/gradcam")
    assert [path for path in PATHS if not any((place / path.removeprefix("./")).exists() for place in places)] == []


def test_the_layers_are_those_that_are_enforced() -> None:
    layers = [
        "config" if layer == "the rest of config" else layer for layer in re.split(r"\s*->\s*", LAYER_TEXT.strip())
    ]
    stated = [set(re.findall(r"[\w.]+", layer)) for layer in layers]
    enforced = [{name.replace("/", ".") for name in layer} for layer in LAYERS]
    for layer in enforced:  # the modules of config that the page leaves out
        layer -= {"config.rules", "config.path_quoting", "user_entries"}
    assert stated == [layer for layer in enforced if layer]
