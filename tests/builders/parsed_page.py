"""HTML pages as tests look at them."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "input", "line", "circle", "path", "wbr", "br"}


class Page(HTMLParser):
    """Tags, words and addresses of a page; parsing fails where a tag is closed that is not open."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text = file.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += "" if {"script", "style"} & set(self.open) else data

    def list_values(self, name: str, tag: str | None = None) -> list[str]:
        """Return the values of an attribute, of one tag or of all."""
        return [attrs[name] or "" for of, attrs in self.tags if name in attrs and tag in (None, of)]
