"""What columns and tables of results are called in the report."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from avatar_bench.i18n import list_languages, use_language
from avatar_bench.reporting import report_text
from avatar_bench.reporting.captions import _list_captions, find_caption
from avatar_bench.reporting.headings import _load_headings, find_heading, find_table_title
from avatar_bench.reporting.page import write_report
from avatar_bench.reporting.study import read_study


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("accuracy", "accuracy"),
        ("recall/real", "recall, real"),
        ("recall/%s", "recall, %s"),
        ("scaled/ece_15", "ECE, 15 bins, scaled"),
        ("corrected/accuracy/50-25-25", "accuracy, 50-25-25, corrected"),
        ("auroc/cats/energy", "AUROC, cats, energy"),
        ("blind_test/accuracy", "accuracy"),
        ("calibration/scaled/ece_15", "ECE, 15 bins, scaled"),
        ("gain/soft_vote", "gain in accuracy, soft vote"),
        ("null/iou_top20", "IoU of the top 20 %, null"),
        ("iou_top20/real", "IoU of the top 20 %, real"),
        ("latency_ms/b1", "latency, one image (ms)"),
        ("latency_ms/b32", "latency, batch of 32 (ms)"),
        ("a_users_own/metric", "a_users_own/metric"),
    ],
)
def test_a_heading_says_what_a_column_holds(name: str, said: str) -> None:
    assert find_heading(name) == said


def test_every_heading_is_in_every_language_and_a_pattern_keeps_its_place() -> None:
    for kind in _load_headings().values():
        for name, said in kind.items():
            assert set(said) == set(list_languages()), name
            assert all(text.count("%s") == name.count("%s") for text in said.values()), name
    russian = [said["ru"] for kind in _load_headings().values() for said in kind.values()]
    assert sum(bool(re.search("[а-я]", text)) for text in russian) > 0.85 * len(russian)


def test_the_same_words_stand_for_two_columns_nowhere() -> None:
    for language in list_languages():
        said = [report_text[language] for name, report_text in _load_headings()["columns"].items() if "%s" not in name]
        assert sorted({text for text in said if said.count(text) > 1} - {"run", "model", "модель"}) == []


def test_tables_are_called_by_what_they_hold() -> None:
    assert find_table_title("overview", "by_class") is None  # called as the figure of its name
    assert find_table_title("significance", "pairs") == "Pairs of models: difference, p and required number of images"
    assert {name.partition("/")[0] for name in _load_headings()["tables"]} <= {
        *report_text.COMPARISONS,
        *report_text.BLOCKS,
    }


@pytest.mark.parametrize(("language", "said"), [("en", "significantly different"), ("ru", "различие значимо")])
def test_tables_of_the_page_have_readable_heads_and_names_of_the_files_in_their_csv(
    language: str, said: str, runs: Path, make: SimpleNamespace
) -> None:
    pairs = pd.DataFrame({"a": ["good"], "b": ["poor"], "p_holm": [0.01], "significant": [True]})
    compared = [{"label": one, "checkpoint_sha256": make.checkpoint(one)} for one in ("good", "poor")]
    make.result(runs, "significance", "test", {}, {"pairs": pairs}, compared=compared, checkpoint_sha256=None)
    with use_language(language):
        write_report(read_study(runs), runs / "report.html", language)
    text = (runs / "report.html").read_text(encoding="utf-8")
    assert f'<abbr title="significant">{said}</abbr>' in text
    assert "significance on test: pairs" not in text


@pytest.mark.parametrize("block", [*report_text.COMPARISONS, *report_text.BLOCKS])
def test_no_two_figures_of_a_block_have_the_same_caption(block: str) -> None:
    said = [text for name, text in _list_captions().items() if name.startswith(f"{block}/")]
    assert len(said) == len(set(said))


def test_the_curves_of_prior_shift_are_called_what_they_show() -> None:
    assert find_caption("prior_shift", "shares") == "Accuracy and macro-F1 against the proportion of each class"
