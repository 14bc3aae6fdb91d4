"""One text for each definition: in the report, in both languages, and in the documentation."""

from __future__ import annotations

import html
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from avatar_bench.i18n import list_languages, use_language
from avatar_bench.reporting import definitions, report_text
from avatar_bench.reporting.page import write_report
from avatar_bench.reporting.study import read_study

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = (*report_text.COMPARISONS, *report_text.BLOCKS)
ENTRIES = definitions._load_definitions()


def test_the_page_of_definitions_is_made_of_the_same_texts() -> None:
    assert (DOCS / "definitions.md").read_text(encoding="utf-8") == definitions.render_definitions(), (
        "run ./scripts/docs"
    )


def test_every_definition_is_of_a_block_and_in_every_language() -> None:
    assert set(ENTRIES) <= set(BLOCKS)
    for entries in ENTRIES.values():
        for metric, entry in entries.items():
            assert set(entry) == {"term", *list_languages()}, metric
            assert set(entry["term"]) == set(list_languages()), metric
            assert all(entry[one].rstrip().endswith(".") for one in list_languages()), metric
            assert re.search("[а-я]", entry["ru"]), metric
            assert re.findall(r"\d+", entry["en"].replace(",", "")) or not re.search(r"\d", entry["ru"]), metric


def test_what_the_report_must_define_is_defined() -> None:
    found = {metric for entries in ENTRIES.values() for metric in entries}
    assert found >= {
        "fpr95",
        "ece_15",
        "ece_floor",
        "aurc",
        "coverage",
        "deletion",
        "insertion",
        "q_statistic",
        "kappa",
    }
    assert found >= {"double_fault", "unbias", "separation_ratio", "silhouette", "trustworthiness", "macro_f1"}
    assert found >= {"balanced_accuracy", "auroc", "sanity_correlation", "score", "n_required"}


@pytest.mark.parametrize("language", list_languages())
def test_the_report_shows_the_definitions_of_its_blocks(language: str, runs: Path, make: SimpleNamespace) -> None:
    blocks = ("calibration", "out_of_domain", "gradcam")
    for block in blocks:
        make.result(runs / "good", block, "test", {"metric": make.accuracy(0.5)})
    with use_language(language):
        write_report(read_study(runs), runs / "report.html", language)
        terms = [pair for block in ("blind_test", *blocks) for pair in definitions.find_definitions(block)]
    for file in ("report.html", "report.md"):
        text = plain((runs / file).read_text(encoding="utf-8"))
        for term, meaning in terms:
            assert plain(meaning) in text, term
            assert plain(term) in text


def plain(text: str) -> str:
    """Return a text without markup, be it HTML or Markdown."""
    return html.unescape(re.sub(r"<[^>]+>|[`\\\\]", "", text))


@pytest.mark.parametrize("block", BLOCKS)
def test_no_other_text_of_the_report_defines_a_term(block: str) -> None:
    terms = {entry["term"]["en"] for entries in ENTRIES.values() for entry in entries.values()}
    for term in terms | {"FPR@95", "kappa", "double fault", "`unbias`", "`n_required`", "Q"}:
        assert not re.search(
            rf"(?i)(^|\. |; ){re.escape(term)} (is|are|means|says) (the|a|how|1|an)\b", report_text.find_reading(block)
        )


@pytest.mark.parametrize("block", ENTRIES)
def test_the_page_of_a_block_links_to_its_definitions(block: str) -> None:
    text = (DOCS / "blocks" / f"{block}.md").read_text(encoding="utf-8")
    assert f"../definitions.md#{block}" in text


def test_the_ranges_of_the_integrated_score_are_those_of_the_block() -> None:
    from avatar_bench.evaluation.blocks.integrated_score import IntegratedScore

    ranges = IntegratedScore().ranges
    assert (list(ranges["speed"]), list(ranges["size"])) == ([1, 1000], [1000, 1])
    assert (ranges["ood"][0], list(ranges["separation"])) == (0.5, [0, 1])
    (_, score), *_ = definitions.find_definitions("integrated_score")
    for part in ("from .5 to 1", "a silhouette of 0 to 1", "1 to 1,000 images", "1,000 million to 1 million"):
        assert part in score
