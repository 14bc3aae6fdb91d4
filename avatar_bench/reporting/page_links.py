"""Links from the report page to files."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from avatar_bench.reporting.saved_result import SavedResult


class PageLinks:
    """Links to files, relative to `page`; nothing is copied."""

    def __init__(self, page: Path) -> None:
        self._folder = page.parent.resolve()

    def link(self, path: Path) -> str:
        """Return the link to a file or folder, relative to the page."""
        return quote(Path(os.path.relpath(path.resolve(), self._folder)).as_posix())

    def link_files(self, saved: SavedResult) -> dict[str, str]:
        """Return the link to each existing file of a result by file name, to a table by its stem."""
        folder = self.link(saved.folder)
        return {
            name.removesuffix(".csv").removesuffix(".parquet"): f"{folder}/{quote(name)}"
            for name in saved.files
            if name not in saved.missing_files
        }
