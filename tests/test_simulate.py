"""Simulations: a fast form of each part, against the rates that are promised."""

import runpy
from pathlib import Path

import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "simulate"


@pytest.fixture(scope="module")
def simulate():
    return runpy.run_path(str(SCRIPT))


def test_confident_errors_leave_answers_and_the_promise_holds(simulate):
    rates = pd.DataFrame(simulate["start"](15)).set_index(["errors", "images", "rule"])
    assert (rates["exceeds"] <= 0.2).all()
    before, now = (rates.loc[("some confident", 1000, rule), "answers"] for rule in ("before", "now"))
    assert now >= before + 0.15
    assert rates.loc[("calibrated", 1000, "now"), "coverage"] > 0.45


def test_lost_coverage_is_no_luck(simulate):
    rates = pd.DataFrame(simulate["coverage_warning"](40))
    assert rates["now"].max() <= 0.06
    assert rates["before"].max() > 0.05


def test_the_interval_of_the_worst_source_holds_where_that_of_the_seemingly_worst_does_not(simulate):
    table = simulate["simulate_worst"](draws=60).set_index("quantity")
    constant = table.loc["mean of a constant answer"]
    assert (constant["before"], constant["after"]) == pytest.approx((19 / 47, 1 / 3))
    coverage = table.drop("mean of a constant answer")
    assert (coverage["after"] >= 0.9).all()
    assert coverage.loc["coverage of worst, 47 equal sources", "before"] < 0.5


def test_slices_that_belong_to_sources_have_no_stars(simulate):
    rates = pd.DataFrame(simulate["simulate_slices"](12, counts=(6,))).mean(numeric_only=True)
    assert rates["star by image"] > 0.8
    assert rates[["star", "gap"]].max() <= 0.06 + 2 * (0.06 * 0.94 / 72) ** 0.5


def test_the_stated_end_of_false_alarms_holds_for_new_sources(simulate):
    rates = pd.DataFrame(simulate["simulate_alarms"](30, counts=(14,))).groupby("by")[["high end holds"]].mean()
    assert rates.loc["source", "high end holds"] >= 0.92
    assert rates.loc["image", "high end holds"] < 0.8


def test_intervals_for_new_sources_hold_for_sources_of_all_sizes(simulate):
    rates = pd.DataFrame(simulate["simulate_intervals"](60, counts=(5, 24)))
    stated = rates[rates["method"] == "stated"]
    few, many = (part.groupby("metric")["covered"].mean() for _, part in stated.groupby("sources"))
    shares, error = ["recall", "accuracy", "balanced_accuracy"], (0.92 * 0.08 / 360) ** 0.5
    assert list(few.index) == sorted(shares)  # two classes of two sources, one of one
    assert (few >= 0.9 - 2 * error).all()
    assert (many[[*shares, "macro_f1"]] >= 0.92 - 2 * error).all()
    assert (many >= 0.9 - 2 * error).all()
