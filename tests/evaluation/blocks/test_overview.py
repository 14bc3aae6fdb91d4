"""Tests of overview: tables, charts, missing metrics and charts that are left out."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from avatar_bench.evaluation.blocks.overview import Overview
from avatar_bench.i18n import use_language
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Metric, Result
from avatar_bench.runs.ensembles import EnsembleRun
from avatar_bench.runs.record import RunRecord
from avatar_bench.runs.run import Run
from tests.evaluation.conftest import CLASSES

HISTORY = pd.DataFrame({"epoch": [1, 2], "stage": [1, 1], "val/loss": [1.0, 0.5], "val/macro_f1": [0.4, 0.8]})
SIZES = ("params_m", "macs_g", "weights_mb", "peak_memory_mb")
SETS = ("test", "cats", "mugs", "toons")


def make_metric(value=0.8, better=True):
    return Metric(value, 40, value - 0.1, value + 0.1, "bootstrap by group", better, floor=1 / 3)


def repeat(names, value, better=True):
    return {name: make_metric(value, better) for name in names}


def results(value=0.8, fingerprint="f1"):
    """Return results with a few metrics each, and the tables that charts read."""
    by_class = [f"{kind}/{name}" for kind in ("recall", "precision", "f1") for name in CLASSES]
    kinds = ("clean", "noise", "blur", "brightness", "rotation", "jpeg", "robustness")
    whole = {name: Metric(5.0, 1, higher_is_better=False) for name in SIZES}
    metrics = {
        "blind_test": repeat(("accuracy", "macro_precision", "macro_f1", *by_class), value),
        "robustness": repeat(kinds, value) | repeat([f"bias/{name}" for name in CLASSES], 0.1, None),
        "calibration": {"scaled/ece_15": make_metric(0.1, False), "ece_15": make_metric(0.3, False)},
        "decision": {"cost": make_metric(0.1, False)},
        "out_of_domain": {"auroc/cats/decision": make_metric(value), "auroc/cats/msp": make_metric(0.5)}
        | {"flagged/cats": make_metric(0.9)}
        | repeat([f"mean_confidence/{name}" for name in SETS], 0.7, None)
        | repeat([f"std_confidence/{name}" for name in SETS], 0.2, None),
        "error_bias": {"unbias": make_metric(0.4), "mean_confidence_correct": make_metric(0.9)}
        | {"mean_confidence_incorrect": make_metric(0.6, False)},
        "efficiency": whole | {"images_per_second/b1": make_metric(90.0), "latency_ms/b1": make_metric(11.0, False)},
        "architecture": {name: Metric(5.0, 1, higher_is_better=None) for name in (*SIZES[:2], "depth", "input_size")},
    }
    confusion = [["drawing", 4, 0, 0], ["generated", 2, 1, 0], ["real", 0, 0, 3]]
    sets = {"set": SETS, "kind": ["in_domain", "near", "far", "shifted"], "n": [10, 30, 10, 5]}
    sets |= {"share_drawing": [0.4, 0.2, 0.6, 1.0], "share_generated": [0.3, 0.2, 0.4, 0.0]}
    risk = {"set": ["test", "test", "blind", "blind"], "coverage": [0.5, 1.0] * 2, "answered": [5, 10] * 2}
    traits = {"family": "convolutional", "core_block": "BasicBlock, Bottleneck", "squeeze_excitation": 0}
    traits |= {"depthwise": "", "attention": "", "patch": np.nan, "normalisation": "batch", "activation": "ReLU"}
    tables = {
        "blind_test": {"confusion": pd.DataFrame(confusion, columns=["target", *CLASSES])},
        "out_of_domain": {"sets": pd.DataFrame(sets).assign(share_real=[0.3, 0.6, 0.0, 0.0])},
        "architecture": {"traits": pd.DataFrame([traits | {"pretraining": "scratch", "trained_with": ""}])},
        "decision": {"risk_coverage": pd.DataFrame(risk).assign(error=1 - value, low=0.0, high=0.5)},
        "efficiency": {"latency": pd.DataFrame({"device": ["cpu"]})},
    }
    made = {name: Result(name, "test", 10, CLASSES, of, tables.get(name, {})) for name, of in metrics.items()}
    return {name: replace(result, provenance={"data_fingerprint": fingerprint}) for name, result in made.items()}


def run_of(saved, label):
    names = {"label": label, "recipe": label, "seed": 1, "classes": CLASSES}
    kept = {"history": HISTORY, "record": RunRecord(best_epoch=2), "saved": lambda block, name: saved.get(block)}
    return SimpleNamespace(**names, **kept)


def compare(*runs, date="2024", **options):
    frame = pd.DataFrame({"date": [date] * 10})
    dataset = type("Dataset", (), {"name": "test", "frame": frame, "__len__": lambda self: 10})()
    return Overview(**options).compare(runs, [dataset] * len(runs))


def test_metrics_are_those_of_the_results_and_every_chart_is_drawn_from_its_table_in_each_language(draw_saved):
    result = compare(run_of(results(), "a"), run_of(results(0.6), "b"))
    for language in ("en", "ru"):
        with use_language(language):
            assert set(draw_saved(result)) | {"runs", "missing"} == set(result.tables)
    assert len(result.tables) == 15
    risk = result.tables["risk_coverage"]
    assert risk["run"].tolist() == ["a", "a", "b", "b"]  # of the evaluated set alone
    assert risk["error"].tolist() == pytest.approx([0.2, 0.2, 0.4, 0.4])
    assert result.metrics == {"accuracy/a": make_metric(), "accuracy/b": make_metric(0.6)}  # nobody is best
    table, chart = (result.tables[name].set_index("run") for name in ("runs", "calibration"))
    assert table.loc["a", ["accuracy", "accuracy_low", "accuracy_high"]].tolist() == pytest.approx([0.8, 0.7, 0.9])
    columns = ["auroc/cats/decision", "flagged/cats", "scaled/ece_15", "ece_15"]
    assert table.loc["b", columns].tolist() == pytest.approx([0.6, 0.9, 0.1, 0.3])
    assert chart.loc["a", ["ece", "raw_ece"]].tolist() == pytest.approx([0.1, 0.3])
    assert "auroc/cats/msp" not in table
    assert "auroc/cats/msp" in compare(run_of(results(), "a"), ood_score="msp").tables["runs"]


def test_what_is_missing_is_null_and_listed():
    lacking = results() | {"robustness": None}
    lacking["blind_test"].metrics["mcc"] = Metric(None, 0, reason=Reason("too_few_classes"))
    result = compare(run_of(results(), "a"), run_of(lacking, "b"))
    table, missing = result.tables["runs"].set_index("run"), result.tables["missing"]
    assert np.isnan(table.loc["b", "robustness"])
    assert "linear_probe" in table  # a column even where no run has it
    everywhere = {"clusters", "gradcam", "marks", "over_time", "prior_shift"}
    assert set(missing.loc[(missing["run"] == "b") & (missing["metric"] == ""), "block"]) == everywhere | {"robustness"}
    ((run, cell),) = missing.loc[missing["metric"] == "mcc", ["run", "reason"]].to_numpy().tolist()
    reason = Reason("of_block", block="blind_test", reason=Reason("too_few_classes"))
    assert (run, Reason.parse_cell(cell)) == ("b", reason)
    assert format_reason(reason, "overview") == "the set has too few classes for this metric"
    assert set(result.tables["robustness"]["run"]) == {"a"}
    warnings = {tuple(warning.values["runs"]): set(warning.values["blocks"]) for warning in result.warnings}
    assert warnings == {("a", "b"): everywhere, ("b",): {"robustness"}}
    undated = compare(run_of(results(), "a"), date="").tables["missing"]
    assert set(undated.loc[undated["metric"] == "", "block"]) == everywhere - {"over_time"}  # which cannot be run


def test_bias_equals_a_hand_count_and_runs_of_different_data_are_named_in_groups():
    table = compare(run_of(results(), "a")).tables["bias"].set_index(["on", "class"])["excess"]
    assert table["domain"].to_dict() == pytest.approx({"drawing": 0.2, "generated": -0.2, "real": 0.0})
    drawing = (30 * 0.2 + 10 * 0.6) / 40 - 1 / 3  # of cats and mugs: toons are drawings
    assert table["ood", "drawing"] == pytest.approx(drawing)
    assert table["ood"].sum() == pytest.approx(0)
    assert table["corrupted", "real"] == pytest.approx(0.1)
    runs = [run_of(results(fingerprint=data), label) for data, label in (("f1", "a"), ("f2", "b"), ("f1", "c"))]
    result = compare(*runs)
    assert Reason("different_images", groups="a, c | b") in result.warnings
    assert result.tables["runs"]["data_fingerprint"].tolist() == ["f1", "f2", "f1"]
    stale = results()
    stale["robustness"].provenance["data_fingerprint"] = "f0"
    assert Reason("mixed_images", runs=["a"]) in compare(run_of(stale, "a")).warnings


def test_an_ensemble_bears_a_mark_its_name_and_no_warning_for_what_only_a_network_has(draw_saved):
    saved = {block: result for block, result in results().items() if block not in ("efficiency", "architecture")}
    members = (Run(Path("a.ckpt")), Run(Path("b.ckpt")))
    vote = EnsembleRun(Path("e.json"), None, {}, label="soft_vote", recipe="soft_vote", members=members, order=CLASSES)
    vote.saved = lambda block, name: saved.get(block)
    vote.card = SimpleNamespace(classes=CLASSES, seed=1)
    result = compare(run_of(results(), "a"), vote)
    assert result.tables["runs"]["kind"].tolist() == ["run", "ensemble"]
    assert not any("soft_vote" in warning.values.get("runs", ()) for warning in result.warnings)
    assert "efficiency" in set(result.tables["missing"].query("run == 'soft_vote'")["block"])
    with_vote = {name for name, table in result.tables.items() if "soft_vote" in set(table.get("run", ()))}
    charts = "by_class robustness calibration confidence ood_confidence ood_shares bias robustness_bias"
    assert with_vote >= {*charts.split()}
    legend = draw_saved(result)["by_class"].legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["a", "soft vote (ensemble)"]
    assert [line.get_marker() for line in legend.get_lines()] == ["o", "P"]
