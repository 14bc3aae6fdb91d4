"""The pages of the documentation that are made of the declarations of the blocks."""

from __future__ import annotations

from pathlib import Path

from avatar_bench.config.catalogue import list_blocks
from scripts.block_pages import render_definitions, render_index, write_navigation

ROOT = Path(__file__).parents[1]


def test_the_pages_are_those_of_the_declarations() -> None:
    config = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    stale = "run ./scripts/docs"
    assert (ROOT / "docs" / "definitions.md").read_text(encoding="utf-8") == render_definitions(), stale
    assert (ROOT / "docs" / "blocks" / "index.md").read_text(encoding="utf-8") == render_index(), stale
    assert config == write_navigation(config), stale
    assert all(f'"{name}" = "blocks/{name}.md"' in config for name in list_blocks(("run", "comparison", "dataset")))
