"""The parts of the report's page, as HTML, without a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment

from avatar_bench.i18n import _, use_language

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


def test_names_never_become_tags(demo: Path, parsed: Nesting) -> None:
    assert parsed.tags.count("script") == 1
    assert "<script>alert" not in demo.read_text(encoding="utf-8")


def test_every_link_into_the_page_has_its_target(parsed: Nesting) -> None:
    inside = {value[1:] for name, value in parsed.attributes if name == "href" and value and value.startswith("#")}
    assert inside <= set(parsed.ids)


def test_what_the_parts_are_labelled_by_is_there(parsed: Nesting) -> None:
    assert {value for name, value in parsed.attributes if name == "aria-labelledby"} <= set(parsed.ids)


def test_nothing_is_read_from_elsewhere(demo: Path, parsed: Nesting) -> None:
    assert all(value.startswith("data:") for name, value in parsed.attributes if name == "src" and value)
    assert not re.search(r"url\(|@import|https?:", demo.read_text(encoding="utf-8"))
    assert not [name for name, __ in parsed.attributes if name.startswith("on") or name == "style"]


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


def test_a_cell_takes_its_digits_from_its_column(cell: Any) -> None:
    assert cell(2.345, digits=1) == "2.3"
    assert cell({"value": 2.345, "digits": 2}, digits=1) == '<span class="value">2.35</span>'


def test_an_interval_is_written_and_drawn_to_scale(cell: Any) -> None:
    html = cell({"value": 0.5, "low": 0.4, "high": 0.7, "floor": 0.3}, start=0.2, stop=0.7, digits=2)
    assert '<span class="bounds">0.40–0.70</span>' in html
    assert 'class="range" x1="40.0" x2="100"' in html
    assert 'circle cx="60.0"' in html
    assert 'class="floor" x1="20.0"' in html


def test_what_lies_beyond_the_scale_is_drawn_at_its_end(cell: Any) -> None:
    html = cell({"value": 0.1, "low": -3.0, "high": 4.0}, start=0.2)
    assert 'class="range" x1="0" x2="100"' in html
    assert 'circle cx="0"' in html


def test_a_model_has_its_colour_and_marker_before_its_name(cell: Any) -> None:
    html = cell({"text": "<a_b>", "color": "#0072B2", "marker": "s"})
    assert 'fill="#0072B2"' in html
    assert "M1 1h8v8h-8z" in html
    assert "<span>&lt;a_<wbr>b&gt;</span>" in html


def test_a_row_of_two_models_names_both(templates: Environment) -> None:
    source = '{% import "report/macros.html.jinja" as ui %}{{ ui.table(["pair"], rows, "Pairs") }}'
    html = templates.from_string(source).render(rows=[{"cells": ["x"], "model": ["a", 'b"']}])
    assert 'data-model="a\nb&#34;"' in html


def test_the_words_are_russian_where_russian_is_spoken(templates: Environment) -> None:
    source = '{% import "report/macros.html.jinja" as ui %}{% call ui.page("x", []) %}{% endcall %}'
    with use_language("ru"):
        html = templates.from_string(source).render()
        assert all(_(words) in html for words in ("Contents", "Dark theme", "Skip to content", "Full size"))
