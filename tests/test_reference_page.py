"""The page of the Python API."""

from __future__ import annotations

from pathlib import Path

from scripts.reference_page import render_reference

PAGE = Path(__file__).parents[1] / "docs" / "python_reference.md"


def test_the_page_is_that_of_the_docstrings() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_reference(), "run ./scripts/docs"


def test_every_function_class_and_method_is_described() -> None:
    parts = [part.strip().split("\n\n") for part in render_reference().split("\n### ")[1:]]
    assert {part[0] for part in parts} >= {"load", "import_detector", "Run.predict", "Result.plot", "Predictions.take"}
    assert [part[0] for part in parts if len(part) < 3 or not part[2][0].isupper()] == []
