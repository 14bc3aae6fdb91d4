"""Evaluation on sources that training has not used: the units, the population, and what is said of them."""

import pandas as pd
import pytest

from tests.builders.commands import data_of, read_result
from tests.conftest import SOURCES, draw_set

NEW = {label: tuple(f"new-{label}-{number}" for number in range(3)) for label in SOURCES}
QUICK = ("block=blind_test", "data.workers=0", "block.blind_test.resamples=100")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Return a manifest of three new sources a class."""
    root = tmp_path_factory.mktemp("new")
    draw_set(root, "new", 12, NEW, seed=9)
    return root / "new.csv"


@pytest.fixture
def evaluate(run_copy, manifest, command):
    """Return a function that evaluates the run on the manifest, changed first; it returns the metrics.json."""

    def evaluate_changed(change):
        changed = manifest.with_name("changed.csv")
        change(pd.read_csv(manifest, keep_default_na=False)).to_csv(changed, index=False)
        printed = command("evaluate", f"ckpt={run_copy}", *QUICK, *data_of(changed)).out
        return read_result(run_copy, "changed") | {"printed": printed}

    return evaluate_changed


def count_warnings(saved, code):
    return [warning["code"] for warning in saved["warnings"]].count(code)


def test_new_sources_are_the_units_and_those_of_one_origin_are_one(evaluate):
    saved = evaluate(lambda table: table)
    accuracy = saved["metrics"]["accuracy"]
    assert (accuracy["unit"], accuracy["units"], accuracy["population"]) == ("source", 9, "new sources")
    assert accuracy["n"] == saved["n"]
    beside = accuracy["these_sources"]
    assert beside["unit"] in ("group", "image")
    seen = f"{beside['value']:.3f} [{beside['low']:.3f}, {beside['high']:.3f}]"
    assert f"(9 sources; {seen} for these sources)" in saved["printed"]
    joined = evaluate(lambda table: table.assign(origin=table["source"].str.replace("-1", "-0")))
    assert joined["metrics"]["accuracy"]["units"] == 6
    # names of files, as earlier versions of prepare wrote them, join nothing
    assert evaluate(lambda table: table.assign(origin=table["path"]))["metrics"]["accuracy"]["units"] == 9


def test_seen_single_and_unknown_sources_are_said_once(evaluate):
    seen = evaluate(lambda table: table.replace({"source": {"new-real-0": SOURCES["real"][0]}}))
    assert count_warnings(seen, "sources_seen") == 1
    assert seen["metrics"]["accuracy"]["population"] == "new sources"
    single = evaluate(lambda table: table.assign(source=table["source"].str.replace(r"real-\d", "real", regex=True)))
    accuracy = single["metrics"]["accuracy"]
    assert (accuracy["reason"]["code"], accuracy["population"]) == ("one_source", "these sources")
    assert count_warnings(single, "one_source_of") == 1
    unknown = evaluate(lambda table: table.drop(columns="source"))
    assert {metric.get("population") for metric in unknown["metrics"].values()} <= {"these images", None}
    assert count_warnings(unknown, "sources_unknown") == 1


def test_the_splits_of_a_run_are_of_these_sources(run_copy, command):
    command("evaluate", f"ckpt={run_copy}", *QUICK)
    accuracy = read_result(run_copy, "test")["metrics"]["accuracy"]
    assert accuracy["population"] == "these sources"
    assert "these_sources" not in accuracy
