"""A result compared with an earlier one, as a user types it: equal to significance, and a gate with its exit code."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avatar_bench.cli.app import main
from avatar_bench.results.result import Result
from tests.builders.commands import copy_run, data_of, weaken_run

QUICK = ["data.workers=0", "allow=[permutation]", "block.blind_test.resamples=100"]
BLIND_TEST = Path("evaluation", "blind", "blind_test")


@pytest.fixture(scope="module")
def blind(images, tmp_path_factory):
    """Words that name a copy of the blind set in which each class has three sources."""
    root = tmp_path_factory.mktemp("blind")
    shutil.copytree(images / "blind", root / "blind")
    rows = pd.read_csv(images / "blind.csv")
    rows["source"] += "-" + (rows["group"].str.split(":").str[-1].astype(int) % 3).astype(str)
    rows.to_csv(root / "blind.csv", index=False)
    return [*data_of(root / "blind.csv"), *QUICK]


@pytest.fixture(scope="module")
def good(tiny_run, blind, tmp_path_factory):
    """A run that is nearly always right, evaluated on the blind set."""
    run = copy_run(tiny_run, tmp_path_factory.mktemp("against") / "good")
    assert main(["evaluate", f"ckpt={run}", *blind]) == 0
    return run


@pytest.fixture(scope="module")
def poor(good, blind):
    """A run of the same split that is often wrong, evaluated on the same set."""
    run = weaken_run(good, good.parent / "poor")
    assert main(["evaluate", f"ckpt={run}", *blind]) == 0
    return run


@pytest.fixture
def earlier(good, tmp_path):
    """A copy of the good run's result that a test may spoil."""
    return Path(shutil.copytree(good / BLIND_TEST, tmp_path / "earlier"))


@pytest.fixture
def compare(command, blind):
    """Return a function that evaluates a run, compares it with an earlier result, and returns what is printed."""
    return lambda run, earlier, *words, code=0: command(
        "evaluate", f"ckpt={run}", *(words or blind), f"against={earlier}", code=code
    )


def read(run, name="blind"):
    return Result.load(run / "evaluation" / name / "against")


def test_it_says_of_two_runs_what_significance_says_of_them(good, poor, blind, compare, command):
    words = [f"ckpt=[{good},{poor}]", "block=significance", "block.significance.resamples=100", *blind[:4]]
    command("evaluate", *words)
    expected = Result.load(good.parent / "evaluation" / "blind" / "significance").tables["pairs"].iloc[0]
    compare(good, poor)
    pair = read(good).tables["pairs"].iloc[0]
    numbers = ["n", "only_a_correct", "only_b_correct", "p", "p_holm", "difference", "low", "high", "units"]
    numbers.append("n_required")
    assert pair[numbers].to_numpy(float) == pytest.approx(expected[numbers].to_numpy(float), abs=1e-12)
    assert pair[["test", "significant"]].tolist() == ["stratified t by source", True]
    assert expected[["test", "significant"]].tolist() == ["stratified t by source", True]
    accuracy = read(good).metrics["blind_test/accuracy"]
    assert [accuracy.value, accuracy.low, accuracy.high] == pair[["difference", "low", "high"]].tolist()


def test_a_significantly_worse_run_ends_with_seven_once_all_is_written_and_others_with_nought(
    good, poor, blind, compare
):
    out, err = compare(poor, good, code=7)
    last = err.splitlines()[-1]
    assert last.startswith(f"{poor}/evaluation/blind/blind_test is significantly worse than {good}: difference in")
    assert "42 images in common" in last
    assert f"against {good}: significantly worse" in out
    assert (read(poor).metrics["blind_test/accuracy"].high or 0) < 0
    assert Result.load_if_complete(poor / "evaluation" / "blind" / "against")
    out = compare(good, good, *blind, "again=true").out  # its own result, which is replaced
    assert "statistically tied (difference in accuracy +0.000, p = 1, 42 images in common)" in out
    assert read(good).metrics["blind_test/accuracy"].value == 0
    assert "significantly better" in compare(good, poor / BLIND_TEST / "metrics.json").out


def test_where_a_class_has_one_source_no_difference_is_called_significant_and_the_reason_is_stated(
    good, poor, command, tmp_path
):
    command("evaluate", f"ckpt={good}", "split=blind", *QUICK, "again=true", f"out={tmp_path / 'earlier'}")
    earlier = next((tmp_path / "earlier").rglob("blind_test"))
    words = [f"ckpt={poor}", "split=blind", *QUICK, "again=true", f"against={earlier}", f"out={tmp_path / 'now'}"]
    out = command("evaluate", *words).out
    assert "a class has only one source, so no difference is called significant for new sources" in out
    pair = Result.load(next(tmp_path.rglob("against"))).tables["pairs"].iloc[0]
    assert (pair["significant"], np.isnan(pair["p"]), pair["population"]) == (False, True, "these sources")


def test_every_difference_is_that_of_the_two_results_and_paired_where_images_can_be(good, poor, compare):
    compare(good, poor)
    table = read(good).tables["differences"].set_index("metric")
    new, earlier = (Result.load(run / BLIND_TEST).metrics for run in (good, poor))
    for metric in ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "recall/real", "f1/drawing", "auroc/generated"):
        row, values = table.loc[metric], (new[metric].value, earlier[metric].value)
        assert row["comparison"] == "paired"
        expected = pytest.approx([*values, values[0] - values[1]], abs=1e-12)
        assert row[["new", "earlier", "difference"]].tolist() == expected
    assert table.loc["detectable_difference", "comparison"] == "unpaired"
    changed = read(good).tables["changed"]
    assert (changed["new"] != changed["earlier"]).all()
    assert len(changed) >= round(42 * table.loc["accuracy", "difference"])


def test_images_are_matched_by_content_and_their_number_is_stated(good, images, blind, compare, tmp_path):
    rows, moved = pd.read_csv(blind[1].partition("=")[2]).iloc[5:], tmp_path / "moved"
    shutil.copytree(images / "blind", moved / "blind")
    rows.assign(path=[f"./{path}" for path in rows["path"]]).to_csv(moved / "june.csv", index=False)
    err = compare(good, good / BLIND_TEST, *data_of(moved / "june.csv"), *QUICK).err
    assert "Paired differences cover the 37 common images; the new result has 37, the earlier one 42." in err
    result = read(good, "june")
    assert (result.n, result.metrics["blind_test/images_in_common"].value) == (37, 37)
    assert result.metrics["blind_test/accuracy"].value == 0


def test_images_of_an_older_version_are_matched_by_path_and_others_refused(good, earlier, compare):
    table = pd.read_csv(earlier / "predictions.csv")
    table.drop(columns="sha256").to_csv(earlier / "predictions.csv", index=False)
    out, err = compare(good, earlier)
    assert "matched by path" in err
    assert "statistically tied" in out
    table.assign(sha256=table["sha256"].str[::-1]).to_csv(earlier / "predictions.csv", index=False)
    assert "have no image in common (matched by sha256)" in compare(good, earlier, code=3).err


def test_on_other_data_differences_are_unpaired_and_say_so(good, compare):
    out, err = compare(good, good / BLIND_TEST, "split=test", *QUICK)
    assert "all differences are unpaired" in err
    assert "statistically" not in out
    folders = [good / "evaluation" / name / "blind_test" for name in ("test", "blind")]
    new, old = (Result.load(folder).metrics["accuracy"].value for folder in folders)
    difference = read(good, "test").metrics["blind_test/accuracy"]
    assert (difference.interval, difference.value) == ("unpaired", pytest.approx(new - old))
    assert set(read(good, "test").tables["differences"]["comparison"]) == {"unpaired"}


@pytest.mark.parametrize(
    ("path", "change", "words", "code", "message"),
    [
        ("nowhere", {}, [], 3, "nowhere: there is no such folder"),
        (".", {}, [], 3, "has no result of blind_test on blind; it has earlier"),
        ("earlier", {"classes": ["cat", "dog"]}, [], 3, "is of the classes cat, dog, this run knows drawing"),
        ("earlier", {"schema": 99}, [], 3, "its metrics.json cannot be read: schema is 99; expected 3"),
        ("earlier", {}, ["block=data_audit"], 2, "against= needs a block that evaluates single runs"),
        ("earlier", {}, ["alpha=2"], 2, "alpha=2"),
        ("", {}, [], 2, "against= is empty"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_evaluated(
    path, change, words, code, message, good, earlier, blind, compare
):
    saved = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
    (earlier / "metrics.json").write_text(json.dumps(saved | change), encoding="utf-8")
    images = ["data=folder", f"data.root={earlier}"] if "block=data_audit" in words else blind
    out, err = compare(good, str(earlier.parent / path) if path else "", *images, *words, "again=true", code=code)
    assert message in err
    assert len(err.splitlines()) <= 3
    assert out == ""


def test_of_several_runs_each_is_compared_and_one_that_is_worse_counts(good, poor, blind, command, tmp_path):
    words = [f"ckpt=[{good},{poor}]", *blind, f"against={good}", f"out={tmp_path / 'out'}"]
    lines = command("evaluate", *words, code=7).out.splitlines()
    outcomes = [line.split(" (")[0].split(": ")[1] for line in lines if line.startswith("against")]
    assert outcomes == ["statistically tied", "significantly worse"]
    assert lines[-1] == f"results: 4 written, in {tmp_path / 'out'}"
    folders = {str(file.parent.relative_to(tmp_path / "out")) for file in tmp_path.rglob("metrics.json")}
    blocks = ("against", "blind_test")
    assert folders == {f"{run}/evaluation/blind/{block}" for run in ("good", "poor") for block in blocks}
