"""Figures that saved results lack in the language of a report."""

import pandas as pd
import pytest

from avatar_bench.i18n import use_language
from avatar_bench.reporting import page
from avatar_bench.reporting.page import draw_missing_figures
from avatar_bench.reporting.saved_result import SavedResult, read_saved
from avatar_bench.results.result import Result, draw_figures


def save(folder):
    """Save a result of against, whose figure shows one difference."""
    row = {"metric": "accuracy", "comparison": "paired", "difference": 0.1, "low": 0.0, "high": 0.2}
    result = Result("against", "test", 9, ("a", "b"), tables={"differences": pd.DataFrame([row])})
    result.tables["pairs"] = pd.DataFrame({"a": ["new"]})
    saved = read_saved(result.save(folder / "against", draw_figures), True)
    assert isinstance(saved, SavedResult)
    return saved


@pytest.mark.parametrize("few", [0, 8])
def test_figures_are_drawn_in_the_language_of_the_report_and_where_they_are_gone(few, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "_FEW_RESULTS", few)  # 0: in processes
    saved = save(tmp_path)
    with use_language("ru"):
        assert draw_missing_figures([saved]) == {}
        assert saved.find_figure("differences") == saved.folder / "ru" / "differences"
    assert "доля верных ответов" in (saved.folder / "ru" / "differences.svg").read_text(encoding="utf-8")
    assert saved.find_figure("differences") == saved.folder / "differences"
    (saved.folder / "differences.png").unlink()
    assert draw_missing_figures([saved]) == {}
    assert (saved.folder / "differences.png").is_file()


def test_a_result_that_cannot_be_drawn_is_named_and_keeps_its_figures(tmp_path):
    saved = save(tmp_path)
    (saved.folder / "differences.csv").write_text("metric\naccuracy\n")
    with use_language("ru"):
        assert "no column difference" in draw_missing_figures([saved])[saved.folder]
        assert saved.find_figure("differences") == saved.folder / "differences"
