"""The page of all options."""

from __future__ import annotations

from pathlib import Path

from scripts.options_page import render_options

PAGE = Path(__file__).parents[1] / "docs" / "options.md"


def test_the_page_is_that_of_the_schema() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_options(), "run ./scripts/docs"
