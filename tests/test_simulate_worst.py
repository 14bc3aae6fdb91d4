"""Test of what is simulated for held-out sources, in a fast form."""

import runpy
from pathlib import Path

import pytest


def test_the_interval_of_the_worst_source_holds_where_that_of_the_seemingly_worst_does_not():
    script = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "simulate_worst.py"))
    table = script["simulate_worst"](draws=60).set_index("quantity")
    constant = table.loc["mean of a constant answer"]
    assert (constant["before"], constant["after"]) == pytest.approx((19 / 47, 1 / 3))
    coverage = table.drop("mean of a constant answer")
    assert (coverage["after"] >= 0.9).all()
    assert coverage.loc["coverage of worst, 47 equal sources", "before"] < 0.5
