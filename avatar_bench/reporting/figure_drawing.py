"""Drawing of the figures that saved results lack in the language of a report."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from avatar_bench.config.entries import find_entries
from avatar_bench.console.progress import track
from avatar_bench.i18n import get_language, use_language
from avatar_bench.reporting.saved_result import SavedResult
from avatar_bench.results.block_figures import draw_figures
from avatar_bench.results.result import has_figures, redraw

_FEW = 8  # results drawn faster than further processes start


def draw_missing_figures(found: Iterable[SavedResult]) -> dict[Path, str]:
    """Draw the figures of results in the current language where they are missing, and put them beside the others.

    Return the reasons by folder where this failed. Those figures, and the ones of blocks that are not installed here,
    stay in the language that they have.
    """
    language, known = get_language(), find_entries("block")
    folders = [
        saved.folder
        for saved in found
        if saved.result.block in known and not has_figures(saved.folder, saved.result.figures, language)
    ]
    if len(folders) <= _FEW:
        reasons = [_redraw(folder, language) for folder in folders]
    else:
        for folder in folders:  # imported once, before the processes are forked
            known[folder.name].load()
        with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("fork")) as pool:
            reasons = list(
                track(pool.map(_redraw, folders, [language] * len(folders)), "figures", len(folders), "result")
            )
    return {folder: reason for folder, reason in zip(folders, reasons, strict=True) if reason}


def _redraw(folder: Path, language: str) -> str:
    """Draw the figures of one result; return "", or the reason of a failure, such as a table without a column."""
    try:
        with use_language(language):
            redraw(folder, draw_figures, language)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""
