"""Tests of the audit of a data set: planted shortcuts, its parts, its options, and label errors."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avatar_bench.audit.probes import ProbeSettings
from avatar_bench.data.dataset import read_manifest
from avatar_bench.evaluation.blocks import data_audit
from avatar_bench.evaluation.blocks.data_audit import DataAudit
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Result
from tests.builders.commands import change_record, read_record, run_undrawn, write_manifest
from tests.builders.ranges import find_faults

FAST = {"resamples": 100, "label_errors": False, "folds": 3}


def planted(root, kinds, n=36):
    """Write images of which nothing tells the class but the file's format."""
    rng, rows = np.random.default_rng(0), []
    for label, ending in kinds.items():
        for number in range(n):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            file = root / f"{label}{number}.{ending}"
            smooth = np.asarray(coarse.resize((72, 72), Image.Resampling.BICUBIC), dtype=float)
            grain = rng.normal(0, 15, smooth.shape)  # or it would be called blurred
            Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(file)
            rows.append((file.name, label, f"s{number % 3}"))
    pd.DataFrame(rows, columns=["path", "label", "source"]).to_csv(root / "set.csv", index=False)
    return read_manifest(root / "set.csv")


@pytest.fixture(scope="module")
def shortcut(tmp_path_factory):
    """The audit of a set whose classes only their format tells, every option on that needs no download."""
    dataset = planted(tmp_path_factory.mktemp("planted"), {"drawing": "png", "real": "jpg"})
    return DataAudit(**FAST).audit(dataset)


def test_a_class_told_by_its_format_is_a_shortcut_and_unsuitable_until_it_is_equalised(shortcut, tmp_path):
    assert [fault for key, metric in shortcut.metrics.items() for fault in find_faults(key, metric)] == []
    assert shortcut.metrics["metadata_auroc"].value >= 0.95
    assert shortcut.metrics["equalised/metadata_auroc"].value <= 0.60
    first = shortcut.tables["single_properties"].iloc[0]
    assert first["auroc"] >= 0.95
    assert first["property"] in ("format", "jpeg_quality", "subsampling")
    assert shortcut.provenance["assessment"]["suitable"] == "no"
    assert shortcut.provenance["assessment"]["reasons"][0]["code"].startswith("file")
    assert shortcut.provenance["equalised/assessment"] == {"suitable": "yes", "reasons": []}
    reason = format_reason(shortcut.warnings[0], "data_audit")
    assert reason.startswith("is this set suitable for evaluating classifiers? no: the file alone, ")
    saved = Result.load(shortcut.save(tmp_path / "audit"))
    properties = saved.tables["properties"]
    assert len(properties) == 72
    assert {"path", "label", "source", "format", "sharpness", "png_text", "outlier"} <= set(properties)
    assert saved.tables["confounding"]["total"].tolist() == [24, 24, 24]
    assert len(saved.tables["duplicates"]) == 0
    assert saved.provenance["assessment"] == shortcut.provenance["assessment"]


def test_figures_are_whole_and_name_properties_and_probes_in_words(shortcut, tmp_path, drawn_whole):
    drawn = drawn_whole(
        shortcut.save(tmp_path / "audit"), {"aurocs", "single_properties", "confounding", "properties", "marks"}
    )
    words = [tick.get_text() for figure in drawn for axes in figure.axes for tick in axes.get_yticklabels()]
    assert not any("_" in word or word in {"metadata", "residual", "grey", "icc"} for word in words)


def test_unlabelled_and_broken_images_are_left_out_and_counted(tmp_path):
    dataset = planted(tmp_path, {"a": "png", "b": "png"}, n=15)
    dataset.file(3).write_bytes(b"broken")
    dataset.frame.loc[[0, 1], "label"] = ""
    result = DataAudit(equalised=False, **FAST).audit(dataset)
    assert result.n == 27
    assert Reason("unlabelled", n=2, all=30) in result.warnings
    (undecodable,) = [warning.values for warning in result.warnings if warning.code == "undecodable"]
    assert (undecodable["n"], undecodable["all"]) == (1, 28)
    assert "a3.png" in undecodable["why"]


def labelled(n=90):
    """Return features that separate the classes, and one label that contradicts them."""
    targets = np.arange(n) % 3
    features = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    features[:, :3] += 6 * np.eye(3, dtype=np.float32)[targets]
    label = np.array(["a", "b", "c"])[targets]
    label[4] = "a"
    path = [f"{row}.png" for row in range(n)]
    return features, pd.DataFrame({"path": path, "label": label, "source": "s", "group": path})


def test_a_wrong_label_is_suspected_first_and_label_errors_are_left_out_with_a_reason(tmp_path, monkeypatch):
    frame, model = labelled()[1], "efficientnet_lite0"
    assert data_audit.explain_skip(model, frame, False) == Reason("not_requested")
    monkeypatch.setattr(data_audit.importlib.util, "find_spec", lambda name: None)
    assert data_audit.explain_skip(model, frame, None) == Reason("no_cleanlab")
    monkeypatch.setattr(data_audit.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path))
    assert data_audit.explain_skip(model, frame, None).code == "no_weights"
    assert data_audit.explain_skip(model, frame, True) is None
    assert data_audit.explain_skip(model, frame.head(6), True) == Reason("few_groups_for_labels", n=5)
    pytest.importorskip("cleanlab")
    table = data_audit.find_suspects(*labelled(), ProbeSettings())
    assert table.iloc[0][["path", "label", "suggested"]].tolist() == ["4.png", "a", "b"]
    assert table["quality"].iloc[0] < 0.5
    assert len(table) <= 3


def test_the_audit_loads_no_torch_where_label_errors_are_not_asked():
    code = "import sys, avatar_bench.evaluation.blocks.data_audit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_audit_of_an_external_set_names_the_sources_that_training_has(run_copy, images, tmp_path):
    sources = pd.read_csv(run_copy / "split.csv")["source"]
    blind = pd.read_csv(images / "blind.csv")
    blind.loc[:3, "source"] = sources.iloc[0]
    write_manifest(tmp_path / "blind.csv", blind, images)
    change_record(run_copy, data=read_record(run_copy)["data"] | {"blind": str(tmp_path / "blind.csv")})
    options = ("resamples=100", "folds=2", *(f"{part}=false" for part in ("equalised", "label_errors", "marks")))
    words = [f"ckpt={run_copy}", "block=data_audit", "split=blind", "data.workers=0", "allow=[shortcut]"]
    assert run_undrawn(["evaluate", *words, *(f"block.data_audit.{option}" for option in options)]) == 0
    warnings = Result.load(run_copy / "evaluation/blind/data_audit").warnings
    (shared,) = [warning.values for warning in warnings if warning.code == "shared" and warning.values["m"] == 4]
    assert (shared["field"], shared["value"]) == ("origin", sources.iloc[0])
    assert shared["n"] == (sources == sources.iloc[0]).sum()
