"""Tests of overview: tables, charts, missing metrics and charts that are left out."""

from __future__ import annotations

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

CLASSES = ("drawing", "generated", "real")
HISTORY = pd.DataFrame({"epoch": [1, 2], "stage": [1, 1], "val/loss": [1.0, 0.5], "val/macro_f1": [0.4, 0.8]})


SIZES = ("params_m", "macs_g", "weights_mb", "peak_memory_mb")


def shown(metric=0.8, better=True):
    return Metric(metric, 40, metric - 0.1, metric + 0.1, "bootstrap by group", better, floor=1 / 3)


def results(value=0.8, fingerprint="f1"):
    """Return results with a few metrics each, and the tables that charts read."""
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
    collected = {
        "blind_test": {"accuracy": shown(value), "macro_precision": shown(value), "macro_f1": shown(value)}
        | {f"{kind}/{name}": shown(value) for kind in ("recall", "precision", "f1") for name in CLASSES},
        "robustness": {kind: shown(value) for kind in kinds} | {f"bias/{name}": shown(0.1, None) for name in CLASSES},
        "calibration": {"scaled/ece_15": shown(0.1, False), "ece_15": shown(0.3, False)},
        "decision": {"cost": shown(0.1, False)},
        "out_of_domain": {"auroc/cats/decision": shown(value), "auroc/cats/msp": shown(0.5), "flagged/cats": shown(0.9)}
        | {f"mean_confidence/{name}": shown(0.7, None) for name in ("test", "cats", "mugs", "toons")}
        | {f"std_confidence/{name}": shown(0.2, None) for name in ("test", "cats", "mugs", "toons")},
        "error_bias": {
            "unbias": shown(0.4),
            "mean_confidence_correct": shown(0.9),
            "mean_confidence_incorrect": shown(0.6, False),
        },
        "efficiency": {name: Metric(5.0, 1, higher_is_better=False) for name in SIZES}
        | {"images_per_second/b1": shown(90.0), "latency_ms/b1": shown(11.0, False)},
        "architecture": {name: Metric(5.0, 1, higher_is_better=None) for name in (*SIZES[:2], "depth", "input_size")},
    }
    traits = {"family": "convolutional", "core_block": "BasicBlock, Bottleneck", "squeeze_excitation": 0}
    traits |= {"depthwise": "", "attention": "", "patch": np.nan, "normalisation": "batch", "activation": "ReLU"}
    traits |= {"pretraining": "scratch", "trained_with": ""}
    tables = {"blind_test": {"confusion": confusion}, "out_of_domain": {"sets": sets}}
    tables["architecture"] = {"traits": pd.DataFrame([traits])}
    risk = {"coverage": [0.5, 1.0] * 2, "answered": [5, 10] * 2, "error": 1 - value, "low": 0.0, "high": 0.5}
    tables["decision"] = {"risk_coverage": pd.DataFrame(risk).assign(set=["test", "test", "blind", "blind"])}
    tables["efficiency"] = {"latency": pd.DataFrame({"device": ["cpu"]})}
    about = {"data_fingerprint": fingerprint}
    return {
        name: Result(name, "test", 10, CLASSES, metrics, tables.get(name, {}), provenance=dict(about))
        for name, metrics in collected.items()
    }


def run_of(saved, label, recipe=None, history=HISTORY):
    return SimpleNamespace(
        label=label,
        recipe=recipe or label,
        seed=1,
        classes=CLASSES,
        history=history,
        record=RunRecord(best_epoch=2),
        saved=lambda b, name: saved.get(b),
    )


def compare(*runs, **options):
    dataset = type("Dataset", (), {"name": "test", "__len__": lambda self: 10})()
    return Overview(**options).compare(runs, [dataset] * len(runs))


def test_every_chart_of_two_runs_is_drawn_from_its_table_in_each_language(draw_saved):
    result = compare(run_of(results(), "a"), run_of(results(0.6), "b"))
    for language in ("en", "ru"):
        with use_language(language):
            assert set(draw_saved(result)) | {"runs", "missing"} == set(result.tables)
    assert len(result.tables) == 15
    assert result.tables["risk_coverage"]["run"].tolist() == ["a", "a", "b", "b"]  # of the evaluated set alone
    assert result.tables["risk_coverage"]["error"].tolist() == pytest.approx([0.2, 0.2, 0.4, 0.4])


def test_figures_are_those_of_the_results_and_nobody_is_crowned():
    saved = results()
    result = compare(run_of(saved, "a"), run_of(results(0.6), "b"))
    assert result.metrics == {
        "accuracy/a": saved["blind_test"].metrics["accuracy"],
        "accuracy/b": shown(0.6),
    }
    table = result.tables["runs"].set_index("run")
    assert table.loc["a", ["accuracy", "accuracy_low", "accuracy_high"]].tolist() == pytest.approx([0.8, 0.7, 0.9])
    assert table.loc["b", ["auroc/cats/decision", "flagged/cats", "scaled/ece_15", "ece_15"]].tolist() == pytest.approx(
        [0.6, 0.9, 0.1, 0.3]
    )
    chart = result.tables["calibration"].set_index("run")
    assert chart.loc["a", ["ece", "raw_ece"]].tolist() == pytest.approx([0.1, 0.3])
    assert "auroc/cats/msp" not in table
    assert "auroc/cats/msp" in compare(run_of(saved, "a"), ood_score="msp").tables["runs"]


def test_what_is_missing_is_null_and_listed():
    lacking = results()
    lacking["robustness"] = None
    lacking["blind_test"].metrics["mcc"] = Metric(None, 0, reason=Reason("too_few_classes"))
    result = compare(run_of(results(), "a"), run_of(lacking, "b"))
    table = result.tables["runs"].set_index("run")
    assert np.isnan(table.loc["b", "robustness"])
    assert "linear_probe" in table  # a column even where no run has it
    missing = result.tables["missing"]
    assert set(missing.loc[(missing["run"] == "b") & (missing["metric"] == ""), "block"]) == {
        *("robustness", "clusters", "gradcam", "prior_shift")
    }
    ((run, reason),) = missing.loc[missing["metric"] == "mcc", ["run", "reason"]].to_numpy().tolist()
    assert run == "b"
    printed = Reason("of_block", block="blind_test", reason=Reason("too_few_classes"))
    assert Reason.parse_cell(reason) == printed
    assert format_reason(printed, "overview") == "the set has too few classes for this metric"
    assert set(result.tables["robustness"]["run"]) == {"a"}
    everywhere = ["clusters", "gradcam", "prior_shift"]
    found = {tuple(warning.values["runs"]): warning.values["blocks"] for warning in result.warnings}
    assert set(found) == {("a", "b"), ("b",)}
    assert (sorted(found["a", "b"]), found["b",]) == (sorted(everywhere), ["robustness"])


def test_runs_of_different_data_are_named_in_groups():
    runs = [run_of(results(fingerprint=data), label) for data, label in (("f1", "a"), ("f2", "b"), ("f1", "c"))]
    result = compare(*runs)
    assert Reason("different_images", groups="a, c | b") in result.warnings
    assert result.tables["runs"]["data_fingerprint"].tolist() == ["f1", "f2", "f1"]
    stale = results()
    stale["robustness"].provenance["data_fingerprint"] = "f0"
    assert Reason("mixed_images", runs=["a"]) in compare(run_of(stale, "a")).warnings


def test_bias_equals_a_hand_count():
    table = compare(run_of(results(), "a")).tables["bias"].set_index(["on", "class"])["excess"]
    assert table["domain"].to_dict() == pytest.approx({"drawing": 0.2, "generated": -0.2, "real": 0.0})
    drawing = (30 * 0.2 + 10 * 0.6) / 40 - 1 / 3  # of cats and mugs: toons are drawings
    assert table["ood", "drawing"] == pytest.approx(drawing)
    assert table["ood"].sum() == pytest.approx(0)
    assert table["corrupted", "real"] == pytest.approx(0.1)


def test_an_ensemble_bears_a_mark_its_name_and_no_warning_for_what_only_a_network_has(draw_saved):
    saved = {name: one for name, one in results().items() if name not in ("efficiency", "architecture")}
    members = (Run(Path("a.ckpt")), Run(Path("b.ckpt")))
    mixed = EnsembleRun(Path("e.json"), None, {}, label="soft_vote", recipe="soft_vote", members=members, order=CLASSES)
    mixed.saved = lambda block, name: saved.get(block)
    mixed.card = SimpleNamespace(classes=CLASSES, seed=1)
    result = compare(run_of(results(), "a"), mixed)
    assert result.tables["runs"]["kind"].tolist() == ["run", "ensemble"]
    assert not any("soft_vote" in warning.values.get("runs", ()) for warning in result.warnings)
    assert "efficiency" in set(result.tables["missing"].query("run == 'soft_vote'")["block"])
    with_one = {"by_class", "robustness", "calibration", "confidence", "ood_confidence", "ood_shares", "bias"}
    for chart in with_one | {"robustness_bias"}:
        assert "soft_vote" in set(result.tables[chart]["run"])
    legend = draw_saved(result)["by_class"].legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["a", "soft vote (ensemble)"]
    assert [line.get_marker() for line in legend.get_lines()] == ["o", "P"]
