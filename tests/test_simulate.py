"""Simulations: a fast form of each part, against the rates that are promised."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "simulate"


@pytest.fixture(scope="module")
def simulate():
    loader = importlib.machinery.SourceFileLoader("simulate", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("simulate", loader))
    loader.exec_module(module)
    return module


def test_confident_errors_leave_answers_and_the_promise_holds(simulate):
    rates = pd.DataFrame(simulate.start(15)).set_index(["errors", "images", "rule"])
    assert (rates["exceeds"] <= 0.2).all()
    before, now = (rates.loc[("some confident", 1000, rule), "answers"] for rule in ("before", "now"))
    assert now >= before + 0.15
    assert rates.loc[("calibrated", 1000, "now"), "coverage"] > 0.45


def test_lost_coverage_is_no_luck(simulate):
    rates = pd.DataFrame(simulate.coverage_warning(40))
    assert rates["now"].max() <= 0.06
    assert rates["before"].max() > 0.05


def test_parts_are_chosen_by_name(simulate, monkeypatch, capsys):
    def coin(draws):
        """Heads."""
        return [{"draws": draws, "rate": 0.5}]

    monkeypatch.setattr(simulate, "PARTS", {"coin": coin, "none": coin})
    monkeypatch.setattr(sys, "argv", ["simulate", "coin", "--draws", "7"])
    simulate.main()
    assert capsys.readouterr().out.split() == ["coin:", "Heads.", "draws", "rate", "7", "0.500"]
    monkeypatch.setattr(sys, "argv", ["simulate", "dice"])
    with pytest.raises(SystemExit):
        simulate.main()
    assert "expected some of coin, none" in capsys.readouterr().err
