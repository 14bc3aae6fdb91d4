"""Tests of overview: what is put side by side, what is said to be missing, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from avatar_bench import blocks
from avatar_bench.blocks.blind_test import BlindTest
from avatar_bench.blocks.out_of_domain import OutOfDomain
from avatar_bench.blocks.overview import Overview
from avatar_bench.errors import ConfigError
from avatar_bench.results import Metric, Result

CLASSES = ("drawing", "generated", "real")
HISTORY = pd.DataFrame({"epoch": [1, 2], "stage": [1, 1], "val/loss": [1.0, 0.5], "val/macro_f1": [0.4, 0.8]})


def shown(metric=0.8, better=True):
    return Metric(metric, 40, metric - 0.1, metric + 0.1, "bootstrap by group", better, floor=1 / 3)


def results(value=0.8, fingerprint="f1"):
    """Give Results with a few figures each, and the tables that charts read."""
    kinds = ("clean", "noise", "blur", "brightness", "rotation", "jpeg", "robustness")
    sets = pd.DataFrame(
        {
            "set": ["test", "cats", "mugs", "toons"],
            "kind": ["in_domain", "near", "far", "shifted"],
            "n": [10, 30, 10, 5],
            "share_drawing": [0.4, 0.2, 0.6, 1.0],
            "share_generated": [0.3, 0.2, 0.4, 0.0],
            "share_real": [0.3, 0.6, 0.0, 0.0],
        }
    )
    confusion = pd.DataFrame(
        [["drawing", 4, 0, 0], ["generated", 2, 1, 0], ["real", 0, 0, 3]], columns=["target", *CLASSES]
    )
    found = {
        "blind_test": {"accuracy": shown(value), "macro_f1": shown(value)}
        | {f"{kind}/{name}": shown(value) for kind in ("recall", "f1") for name in CLASSES},
        "robustness": {kind: shown(value) for kind in kinds} | {f"bias/{name}": shown(0.1, None) for name in CLASSES},
        "calibration": {"scaled/ece_15": shown(0.1, False)},
        "out_of_domain": {"auroc/cats/energy": shown(value), "auroc/cats/msp": shown(0.5)},
        "error_bias": {"mean_confidence_right": shown(0.9), "mean_confidence_wrong": shown(0.6, False)},
        "efficiency": {"params_m": Metric(5.0, 1, higher_is_better=False), "images_per_second/b1": shown(90.0)},
    }
    tables = {"blind_test": {"confusion": confusion}, "out_of_domain": {"sets": sets}}
    about = {"data_fingerprint": fingerprint}
    return {
        name: Result(name, "test", 10, CLASSES, metrics, tables.get(name, {}), provenance=dict(about))
        for name, metrics in found.items()
    }


def run_of(saved, label, recipe=None, history=HISTORY):
    return SimpleNamespace(
        label=label,
        recipe=recipe or label,
        seed=1,
        classes=CLASSES,
        history=history,
        record={"best_epoch": 2},
        saved=lambda b, name: saved.get(b),
    )


def compare(*runs, **options):
    dataset = type("Dataset", (), {"name": "test", "__len__": lambda self: 10})()
    return Overview(**options).compare(runs, [dataset] * len(runs))


def test_every_chart_of_two_runs_is_drawn_and_its_numbers_saved(tmp_path: Path):
    result = compare(run_of(results(), "a"), run_of(results(0.6), "b"))
    assert set(result.figures) | {"runs", "missing"} == set(result.tables)
    assert len(result.figures) == 8
    folder = result.save(tmp_path / "overview")
    assert {file.stem for file in folder.glob("*.png")} == set(result.figures)


def test_the_history_marks_the_epoch_that_was_kept_and_draws_train_dashed():
    history = HISTORY.assign(**{"train/loss": [0.9, 0.3], "train/macro_f1": [0.5, 0.9]})
    result = compare(run_of(results(), "a", history=history), run_of(results(0.6), "older"))
    table = result.tables["history"]
    assert table["best"].tolist() == [False, True] * 2
    assert table["train/macro_f1"].isna().tolist() == [False, False, True, True]
    right = result.figures["history"].axes[1]
    dashed = [line for line in right.lines if line.get_linestyle() == "--" and len(line.get_xdata())]
    assert [list(line.get_ydata()) for line in dashed] == [[0.5, 0.9]]
    rings = [line for line in right.lines if line.get_markerfacecolor() == "none"]
    assert [(list(ring.get_xdata()), list(ring.get_ydata())) for ring in rings] == [
        ([2], [HISTORY["val/macro_f1"][1]])
    ] * 2


def test_figures_are_those_of_the_results_and_nobody_is_crowned():
    saved = results()
    result = compare(run_of(saved, "a"), run_of(results(0.6), "b"))
    assert result.metrics == {
        "accuracy/a": saved["blind_test"].metrics["accuracy"],
        "accuracy/b": shown(0.6),
    }
    table = result.tables["runs"].set_index("run")
    assert table.loc["a", ["accuracy", "accuracy_low", "accuracy_high"]].tolist() == pytest.approx([0.8, 0.7, 0.9])
    assert table.loc["b", "auroc/cats/energy"] == 0.6
    assert "auroc/cats/msp" not in table
    assert "auroc/cats/msp" in compare(run_of(saved, "a"), ood_score="msp").tables["runs"]


def test_what_is_missing_is_null_and_listed():
    lacking = results()
    lacking["robustness"] = None
    lacking["blind_test"].metrics["mcc"] = Metric(None, 0, reason="one class")
    result = compare(run_of(results(), "a"), run_of(lacking, "b"))
    table = result.tables["runs"].set_index("run")
    assert np.isnan(table.loc["b", "robustness"])
    assert "linear_probe" in table  # a column even where no run has it
    missing = result.tables["missing"]
    assert set(missing.loc[(missing["run"] == "b") & (missing["metric"] == ""), "block"]) == {
        *("robustness", "clusters", "gradcam", "embedding", "prior_shift", "architecture")
    }
    assert missing.loc[missing["metric"] == "mcc", ["run", "reason"]].to_numpy().tolist() == [["b", "one class"]]
    assert set(result.tables["robustness"]["run"]) == {"a"}
    assert any(said.startswith("b has no usable Result of robustness") for said in result.warnings)


def test_a_chart_that_no_run_has_is_left_out_and_named():
    some = {name: result for name, result in results().items() if name != "efficiency"}
    result = compare(run_of(some, "a", history=None), run_of({}, "b", history=None))
    assert {"speed_size", "history"}.isdisjoint(result.figures)
    assert {"by_class", "robustness"} <= set(result.figures)
    for chart in ("speed_size", "history"):
        assert f"The chart {chart} is left out: no run has what it draws." in result.warnings
    assert result.metrics["accuracy/b"].value is None


def test_without_any_result_there_is_no_chart():
    result = compare(run_of({}, "a", history=None))
    assert result.figures == {}
    assert result.tables["runs"]["accuracy"].isna().all()


def test_runs_of_different_data_are_named_in_groups():
    runs = [run_of(results(fingerprint=data), label) for data, label in (("f1", "a"), ("f2", "b"), ("f1", "c"))]
    result = compare(*runs)
    assert "The runs were not judged on the same pictures: a, c | b." in result.warnings
    assert result.tables["runs"]["data_fingerprint"].tolist() == ["f1", "f2", "f1"]
    stale = results()
    stale["robustness"].provenance["data_fingerprint"] = "f0"
    assert "Results of one run rest on different pictures: a." in compare(run_of(stale, "a")).warnings


def test_bias_equals_a_hand_count():
    table = compare(run_of(results(), "a")).tables["bias"].set_index(["on", "class"])["excess"]
    assert table["domain"].to_dict() == pytest.approx({"drawing": 0.2, "generated": -0.2, "real": 0.0})
    drawing = (30 * 0.2 + 10 * 0.6) / 40 - 1 / 3  # of cats and mugs: toons are drawings
    assert table["ood", "drawing"] == pytest.approx(drawing)
    assert table["ood"].sum() == pytest.approx(0)
    assert table["corrupted", "real"] == pytest.approx(0.1)


def test_it_reads_what_the_blocks_themselves_save(oracle, fake_run, dataset_of, tmp_path: Path):
    given = oracle("noisy", 90)
    outside = replace(oracle("uniform", 30), targets=np.full(30, -1))
    run = fake_run(given, ood={"mugs": (dataset_of(outside, "mugs"), outside)})
    found = [block(resamples=100).evaluate(run, dataset_of(given)) for block in (BlindTest, OutOfDomain)]
    saved = {each.block: Result.load(each.save(tmp_path / each.block)) for each in found}
    result = compare(run_of(saved, "a"))
    assert result.tables["runs"]["accuracy"].iloc[0] == given.correct.mean()
    table = result.tables["by_class"].set_index(["kind", "class"])["value"]
    assert table["recall", "real"] == given.correct[given.targets == 2].mean()
    shares = result.tables["ood_shares"].set_index(["set", "class"])["share"]
    assert shares["mugs", "real"] == (outside.predicted == 2).mean()


def test_its_options_are_checked():
    with pytest.raises(ConfigError, match="ood_score"):
        blocks.build("overview", {"ood_score": "magic"})
    assert blocks.build("overview").reads_results
