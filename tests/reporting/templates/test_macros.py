"""The parts of the report's page, as HTML, without a browser."""

import re
from itertools import pairwise

import pytest

from avatar_bench.i18n import _, use_language
from tests.builders.parsed_page import Page

BOUNDS, MODEL = '<span class="bounds">0.40–0.70</span>', {"text": "<a_b>", "color": "#0072B2", "marker": "s"}
IMPORT = '{% import "report/macros.html.jinja" as ui %}'


@pytest.mark.parametrize("name", ["demo", "report"])
def test_a_page_is_sound_and_reads_nothing_from_elsewhere(name, request):
    page = Page(request.getfixturevalue(name))
    ids, links, tags = page.list_values("id"), page.list_values("href"), [tag for tag, _attrs in page.tags]
    assert page.open == []
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} | {*page.list_values("aria-labelledby")} <= set(ids)
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert tags.count("script") == 1
    assert "<script>alert" not in page.text
    assert {"iframe", "object", "embed", "base"}.isdisjoint(tags)
    assert page.list_values("src", "script") == []
    assert all(address.startswith("data:") for address in page.list_values("src") if address)
    assert set(page.list_values("href", "link")) <= {"data:,"}
    assert not re.search(r"@import|url\(|(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page.text)
    assert not [name for _tag, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"]


@pytest.fixture
def cell(templates):
    """Return the HTML of a cell on one line."""
    template = templates.from_string(IMPORT + "{{ ui.cell(value, column) }}")

    def render(value, **column):
        return " ".join(template.render(value=value, column=column).split())

    return render


@pytest.mark.parametrize(
    ("value", "html"),
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
def test_a_cell_shows_its_value(cell, value, html):
    assert cell(value) == html
    assert cell(2.345, digits=1) == "2.3"
    assert cell({"value": 2.345, "digits": 2}, digits=1) == '<span class="value">2.35</span>'


@pytest.mark.parametrize(
    ("value", "column", "parts"),
    [
        (
            {"value": 0.5, "low": 0.4, "high": 0.7, "floor": 0.3},
            {"start": 0.2, "stop": 0.7, "digits": 2},
            [BOUNDS, 'class="range" x1="40.0" x2="100"', 'circle cx="60.0"', 'class="floor" x1="20.0"'],
        ),
        ({"value": 0.1, "low": -3.0, "high": 4.0}, {"start": 0.2}, ['class="range" x1="0" x2="100"', 'circle cx="0"']),
        (MODEL, {}, ['fill="#0072B2"', "M1 1h8v8h-8z", "<span>&lt;a_<wbr>b&gt;</span>"]),
    ],
)
def test_a_cell_draws_intervals_to_scale_and_the_marker_of_a_model(cell, value, column, parts):
    html = cell(value, **column)
    assert [part for part in parts if part not in html] == []


def test_a_row_of_two_models_names_both_and_a_russian_page_has_russian_words(templates):
    table = templates.from_string(IMPORT + '{{ ui.table(["pair"], rows, "Pairs") }}')
    html = table.render(rows=[{"cells": ["x"], "model": ["a", 'b"']}])
    assert 'data-model="a\nb&#34;"' in html
    with use_language("ru"):
        html = templates.from_string(IMPORT + '{% call ui.page("x", []) %}{% endcall %}').render()
        assert all(_(words) in html for words in ("Contents", "Dark theme", "Skip to content", "Full size"))
