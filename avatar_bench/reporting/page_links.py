"""Links from the report page to files, and writing of the page."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from avatar_bench.errors import OutputError
from avatar_bench.reporting.saved_result import SavedResult


class PageLinks:
    """Links to files, relative to `page`; nothing is copied."""

    def __init__(self, page: Path) -> None:
        self.page = page
        self._folder = page.parent.resolve()

    def link(self, path: Path) -> str:
        """Return the link to a file or folder, relative to the page."""
        return quote(Path(os.path.relpath(path.resolve(), self._folder)).as_posix())

    def link_files(self, saved: SavedResult) -> dict[str, str]:
        """Return the link to each existing file of a result by file name."""
        folder = self.link(saved.folder)
        return {name: f"{folder}/{quote(name)}" for name in saved.files if name not in saved.missing_files}

    def check(self) -> None:
        """Raise OutputError where the page is a folder."""
        if self.page.is_dir():
            raise OutputError(f"out={self.page} is a folder.", "Expected a file name, such as report.html.")


def write_text(file: Path, text: str) -> None:
    """Write a file atomically."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
