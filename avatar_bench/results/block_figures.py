"""Figures of saved results, drawn by the code of their blocks."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from avatar_bench.config.entries import find_entry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from avatar_bench.results.result import Result


def draw_figures(result: Result) -> Mapping[str, Figure]:
    """Draw the figures of a saved Result with arrays in the current language; none if its block draws none."""
    entry = find_entry("block", result.block)
    if not (entry.is_folder and entry.module.with_name("figures.py").is_file()):
        return {}
    module = entry.load()
    with entry.explain_failure():
        figures: Mapping[str, Figure] = importlib.import_module(f"{module.__name__}.figures").draw(result)
    return figures
