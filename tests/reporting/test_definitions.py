"""Definitions of metrics, in the report and in the pages of the blocks."""

import html
import re
from pathlib import Path

import pytest

from avatar_bench.config.catalogue import list_blocks
from avatar_bench.i18n import LANGUAGES, _, use_language
from avatar_bench.reporting.page import write_report
from avatar_bench.reporting.study import read_study
from avatar_bench.results.declaration import declare_block
from tests.reporting.conftest import accuracy, write_result

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_report_shows_the_definitions_of_its_blocks(language, runs):
    blocks = ("calibration", "out_of_domain", "gradcam")
    for block in blocks:
        write_result(runs / "good", block, "test", {"metric": accuracy(0.5)})
    with use_language(language):
        write_report(read_study(runs), runs / "report.html", language)
        declared = [pair for block in ("blind_test", *blocks) for pair in declare_block(block).terms.items()]
        terms = [(_(term), _(meaning)) for term, meaning in declared]
    for file in ("report.html", "report.md"):
        text = plain((runs / file).read_text(encoding="utf-8"))
        for term, meaning in terms:
            assert plain(meaning) in text, term
            assert plain(term) in text


def plain(text):
    """Return a text without markup, be it HTML or Markdown."""
    return html.unescape(re.sub(r"<[^>]+>|[`\\\\]", "", text))


def test_the_page_of_a_block_links_to_its_definitions():
    for block in list_blocks(("run", "comparison", "dataset")):
        if declare_block(block).terms:
            assert f"../definitions.md#{block}" in (DOCS / "blocks" / f"{block}.md").read_text(encoding="utf-8")
