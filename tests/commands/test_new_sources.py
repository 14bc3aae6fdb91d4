"""Evaluation on sources that training has not used: the units, the population, and what is said of them."""

import json
from typing import Any

import pandas as pd
import pytest

from avatar_bench.cli.app import main
from tests.conftest import SOURCES, draw_set

NEW = {label: tuple(f"new-{label}-{number}" for number in range(3)) for label in SOURCES}
QUICK = ("data.workers=0", "block.blind_test.resamples=100", "block.significance.resamples=100")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Return a manifest of three new sources a class."""
    root = tmp_path_factory.mktemp("new")
    draw_set(root, "new", 12, NEW, seed=9)
    return root / "new.csv"


@pytest.fixture
def evaluate(run_copy, manifest):
    """Return a function that evaluates the run on the manifest, changed first, and returns the metrics.json."""

    def build(change, *words):
        changed = manifest.with_name("changed.csv")
        change(pd.read_csv(manifest, keep_default_na=False)).to_csv(changed, index=False)
        data = ["data=manifest", f"data.manifest={changed}", *QUICK[:2]]
        assert main(["evaluate", f"ckpt={run_copy}", "block=blind_test", *data, *words]) == 0
        values: dict[str, Any] = json.loads((run_copy / "evaluation/changed/blind_test/metrics.json").read_text())
        return values

    return build


def codes(found):
    return [warning["code"] for warning in found["warnings"]]


def test_new_sources_are_the_units_and_those_of_one_origin_are_one(evaluate, capsys):
    found = evaluate(lambda table: table)
    accuracy = found["metrics"]["accuracy"]
    assert (accuracy["unit"], accuracy["units"], accuracy["population"]) == ("source", 9, "new sources")
    assert accuracy["n"] == found["n"]
    beside = accuracy["these_sources"]
    assert beside["unit"] in ("group", "image")
    assert f"({accuracy['units']} sources; [{beside['low']:.3f}, {beside['high']:.3f}] for these sources)" in (
        capsys.readouterr().out
    )
    joined = evaluate(lambda table: table.assign(origin=table["source"].str.replace("-1", "-0")))
    assert joined["metrics"]["accuracy"]["units"] == 6
    # names of files, as earlier versions of prepare wrote them, join nothing
    files = evaluate(lambda table: table.assign(origin=table["path"]))
    assert files["metrics"]["accuracy"]["units"] == 9


def test_seen_single_and_unknown_sources_are_said_once(evaluate):
    some = {f"new-real-{number}": name for number, name in enumerate(SOURCES["real"][:1])}
    found = evaluate(lambda table: table.replace({"source": some}))
    assert codes(found).count("sources_seen") == 1
    assert found["metrics"]["accuracy"]["population"] == "new sources"
    one = evaluate(lambda table: table.assign(source=table["source"].str.replace(r"real-\d", "real", regex=True)))
    assert one["metrics"]["accuracy"]["reason"]["code"] == "one_source"
    assert one["metrics"]["accuracy"]["population"] == "these sources"
    assert codes(one).count("one_source_of") == 1
    unknown = evaluate(lambda table: table.drop(columns="source"))
    assert {metric.get("population") for metric in unknown["metrics"].values()} <= {"these images", None}
    assert codes(unknown).count("sources_unknown") == 1


def test_the_own_splits_of_a_run_are_of_these_sources(run_copy):
    assert main(["evaluate", f"ckpt={run_copy}", "block=blind_test", *QUICK[:2]]) == 0
    values = json.loads((run_copy / "evaluation/test/blind_test/metrics.json").read_text())
    assert values["metrics"]["accuracy"]["population"] == "these sources"
    assert "these_sources" not in values["metrics"]["accuracy"]
