"""Files: where what the page shows lies, as addresses relative to the page, and the page itself as a file."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from avatar_bench.errors import OutputError
from avatar_bench.reporting.saved_result import SavedResult


class PageLinks:
    """Give the addresses of files as they are seen from `page`; nothing is copied."""

    def __init__(self, page: Path) -> None:
        self.page = page
        self._folder = page.parent.resolve()

    def link(self, path: Path) -> str:
        """Give the address of a file or folder, relative to the page."""
        return quote(Path(os.path.relpath(path.resolve(), self._folder)).as_posix())

    def of(self, saved: SavedResult) -> dict[str, str]:
        """Give the address of each file that a Result was saved with and that is still there, by its name."""
        folder = self.link(saved.folder)
        return {name: f"{folder}/{quote(name)}" for name in saved.files if name not in saved.gone}

    def check(self) -> None:
        """Raise OutputError where the page cannot be a file."""
        if self.page.is_dir():
            raise OutputError(f"out={self.page} is a folder.", "Expected the name of a file, such as report.html.")


def write_text(file: Path, text: str) -> None:
    """Write a file, complete or not at all."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
