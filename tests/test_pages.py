"""The pages of the documentation that are made of declarations and docstrings."""

from pathlib import Path

import pytest

from avatar_bench.config.catalogue import list_blocks
from scripts.block_pages import render_definitions, render_index, write_navigation
from scripts.options_page import render_options
from scripts.reference_page import render_reference

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def reference():
    return render_reference()


def test_the_pages_are_those_of_the_declarations(reference):
    config = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    for name, text in {
        "definitions.md": render_definitions(),
        "blocks/index.md": render_index(),
        "options.md": render_options(),
        "python_reference.md": reference,
    }.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, "run ./scripts/docs"
    assert config == write_navigation(config), "run ./scripts/docs"
    assert all(f'"{name}" = "blocks/{name}.md"' in config for name in list_blocks(("run", "comparison", "dataset")))


def test_every_function_class_and_method_is_described(reference):
    parts = [part.strip().split("\n\n") for part in reference.split("\n### ")[1:]]
    assert {part[0] for part in parts} >= {"load", "import_detector", "Run.predict", "Result.plot", "Predictions.take"}
    assert [part[0] for part in parts if len(part) < 3 or not part[2][0].isupper()] == []
