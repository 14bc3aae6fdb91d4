"""The parts of the report's page, as HTML, without a browser."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment

VOID = {"meta", "link", "img", "input", "line", "circle", "path", "wbr", "br"}


class Nesting(HTMLParser):
    """Collect tags, ids and text, and fail where a tag is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def parsed(demo: Path) -> Nesting:
    nesting = Nesting()
    nesting.feed(demo.read_text(encoding="utf-8"))
    return nesting


@pytest.fixture
def cell(templates: Environment) -> Any:
    """Return the HTML of a cell on one line."""
    template = templates.from_string('{% import "report/macros.html.jinja" as ui %}{{ ui.cell(given, column) }}')

    def render(given: Any, **column: Any) -> str:
        return " ".join(template.render(given=given, column=column).split())

    return render


def test_every_tag_is_closed_and_every_id_is_unique(parsed: Nesting) -> None:
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, '<span class="soft" aria-hidden="true">–</span><span class="unseen">none</span>'),
        ("<b>", "&lt;b&gt;"),
        (3, "3"),
        (0.5, "0.500"),
        (-0.25, "−0.250"),
        ({"value": 0.5}, '<span class="value">0.500</span>'),
        ({"value": None, "reason": "no <b>"}, '<span class="reason">no &lt;b&gt;</span>'),
        ({"first": 1, "last": 3, "letters": "ab"}, '<span class="rank">1–3</span> <span class="letters">ab</span>'),
        ({"first": 2, "last": 2}, '<span class="rank">2</span>'),
        ({"text": "no", "tone": "stop"}, '<span class="badge stop">no</span>'),
        ({"text": "a", "href": "b c/d"}, '<a href="b c/d">a</a>'),
        ({"value": 2, "soft": "of 3"}, '<span class="value">2</span><span class="second">of 3</span>'),
    ],
)
def test_a_cell_shows_what_it_is_given(cell: Any, given: Any, shown: str) -> None:
    assert cell(given) == shown


def test_an_interval_is_written_and_drawn_to_scale(cell: Any) -> None:
    html = cell({"value": 0.5, "low": 0.4, "high": 0.7, "floor": 0.3}, start=0.2, stop=0.7, digits=2)
    assert '<span class="bounds">0.40–0.70</span>' in html
    assert 'class="range" x1="40.0" x2="100"' in html
    assert 'circle cx="60.0"' in html
    assert 'class="floor" x1="20.0"' in html
