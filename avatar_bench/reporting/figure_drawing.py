"""Drawing of the figures that saved results lack in the language of a report."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from avatar_bench.config.entries import find_entries
from avatar_bench.evaluation.registry import draw_figures
from avatar_bench.i18n import get_language, use_language
from avatar_bench.reporting.saved_result import SavedResult
from avatar_bench.results.result import has_figures, redraw

_FEW = 8  # results drawn faster than further processes start


def draw_missing_figures(found: Iterable[SavedResult]) -> None:
    """Draw the figures of results in the current language where they are missing, and put them beside the others.

    Figures of blocks that are not installed here stay in the language they have. Raise OSError if a folder cannot be
    written.
    """
    language, known = get_language(), find_entries("block")
    folders = [
        saved.folder
        for saved in found
        if saved.result.block in known and not has_figures(saved.folder, saved.result.figures, language)
    ]
    if len(folders) <= _FEW:
        for folder in folders:
            _redraw(folder, language)
        return
    for block in known.values():  # imported once, before the processes are forked
        block.load()
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("fork")) as pool:
        list(pool.map(_redraw, folders, [language] * len(folders)))


def _redraw(folder: Path, language: str) -> None:
    with use_language(language):
        redraw(folder, draw_figures, language)
