"""Tests of the audit of a data set: planted shortcuts, its parts, its options, and label errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avatar_bench.audit.probes import ProbeSettings
from avatar_bench.cli.app import main
from avatar_bench.data.dataset import Dataset, read_manifest
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.evaluation import registry
from avatar_bench.evaluation.blocks import data_audit
from avatar_bench.evaluation.blocks.data_audit import DataAudit
from avatar_bench.i18n import use_language
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Result, draw_figures

SHARED = Path(__file__).parents[4] / "shared" / "data"
FAST = {"resamples": 100, "label_errors": False}


def planted(root: Path, kinds: dict[str, str], n: int = 60) -> Dataset:
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
def shortcut(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The audit of a set whose classes only their format tells, every option on that needs no download."""
    dataset = planted(tmp_path_factory.mktemp("planted"), {"drawing": "png", "real": "jpg"})
    return DataAudit(**FAST).audit(dataset)


def test_a_class_told_by_its_format_is_a_shortcut_until_it_is_equalised(shortcut: Result) -> None:
    assert shortcut.metrics["metadata_auroc"].value >= 0.95
    assert shortcut.metrics["equalised/metadata_auroc"].value <= 0.60
    assert shortcut.tables["single_properties"]["auroc"].iloc[0] >= 0.95
    assert shortcut.tables["single_properties"]["property"].iloc[0] in ("format", "jpeg_quality", "subsampling")


def test_the_assessment_is_no_until_the_set_is_equalised(shortcut: Result) -> None:
    assert shortcut.provenance["assessment"]["suitable"] == "no"
    assert shortcut.provenance["assessment"]["reasons"][0]["code"].startswith("file")
    assert shortcut.provenance["equalised/assessment"] == {"suitable": "yes", "reasons": []}
    told = format_reason(shortcut.warnings[0], "data_audit")
    assert told.startswith("is this set suitable for evaluating classifiers? no: the file alone, ")


def test_every_metric_has_its_name_and_says_that_less_is_better(shortcut: Result) -> None:
    kinds = ("metadata", "appearance", "colour", "residual", "source")
    classes = ("", "/drawing", "/real")
    probes = {f"{kind}_auroc{name}" for kind in kinds for name in classes} | {"metadata_balanced_accuracy"}
    equalised = {f"equalised/{name}" for name in probes}
    assert set(shortcut.metrics) == probes | equalised | {"majority_accuracy", "majority_balanced_accuracy"}
    assert all(shortcut.metrics[name].higher_is_better is False for name in probes | equalised)
    assert next(iter(shortcut.metrics)) == "metadata_auroc"
    assert shortcut.metrics["majority_balanced_accuracy"].value == 0.5


def test_tables_and_figures_are_saved_and_read_back(shortcut: Result, tmp_path: Path) -> None:
    folder = shortcut.save(tmp_path / "audit", draw_figures)
    assert {file.stem for file in folder.glob("*.png")} == {"aurocs", "single_properties", "confounding", "properties"}
    properties = pd.read_csv(folder / "properties.csv")
    assert len(properties) == 120
    assert {"path", "label", "source", "format", "sharpness", "png_text", "outlier"} <= set(properties)
    assert pd.read_csv(folder / "confounding.csv")["total"].tolist() == [40, 40, 40]
    assert len(pd.read_csv(folder / "duplicates.csv")) == 0
    assert Result.load(folder).provenance["assessment"] == shortcut.provenance["assessment"]


def test_figures_are_whole_and_name_properties_and_probes_in_words(shortcut: Result, draw_saved, inside) -> None:
    for language in ("en", "ru"):
        with use_language(language):
            drawn = draw_saved(shortcut)
        assert [name for name, figure in drawn.items() if not inside(figure)] == []
        words = [
            tick.get_text() for figure in drawn.values() for axes in figure.axes for tick in axes.get_yticklabels()
        ]
        assert not any("_" in word or word in {"metadata", "residual", "grey", "icc"} for word in words)


def test_two_audits_of_one_set_agree(tmp_path: Path) -> None:
    dataset = planted(tmp_path, {"a": "png", "b": "jpg"}, n=12)
    first, second = (DataAudit(**FAST).audit(dataset) for _ in range(2))
    assert first.metrics == second.metrics


def test_a_limit_draws_and_says_so_and_what_is_not_wanted_is_left_out(tmp_path: Path) -> None:
    dataset = planted(tmp_path, {"a": "png", "b": "png"}, n=20)
    result = DataAudit(limit=30, equalised=False, duplicates=False, **FAST).audit(dataset)
    assert result.n == 30
    assert Reason("sampled", n=30, all=40) in result.warnings
    assert not any(name.startswith("equalised/") for name in result.metrics)
    assert "equalised/assessment" not in result.provenance
    assert "duplicates" not in result.tables


def test_one_class_gives_tables_and_no_probe(tmp_path: Path, draw_saved) -> None:
    result = DataAudit(**FAST).audit(planted(tmp_path, {"a": "png"}, n=12))
    assert result.metrics["metadata_auroc"].reason == Reason("fewer_than_two_classes")
    assert result.provenance["assessment"] == {"suitable": "not_asked", "reasons": [{"code": "one_class"}]}
    assert "aurocs" not in draw_saved(result)
    assert len(result.tables["summary"])


def test_unlabelled_and_broken_images_are_left_out_and_counted(tmp_path: Path) -> None:
    dataset = planted(tmp_path, {"a": "png", "b": "png"}, n=15)
    dataset.file(3).write_bytes(b"broken")
    dataset.frame.loc[[0, 1], "label"] = ""
    result = DataAudit(equalised=False, **FAST).audit(dataset)
    assert result.n == 27
    assert Reason("unlabelled", n=2, all=30) in result.warnings
    (undecodable,) = [warning for warning in result.warnings if warning.code == "undecodable"]
    assert (undecodable.values["n"], undecodable.values["all"]) == (1, 28)
    assert "a3.png" in undecodable.values["why"]


def test_a_set_without_any_label_is_refused(tmp_path: Path) -> None:
    dataset = planted(tmp_path, {"a": "png"}, n=2)
    dataset.frame["label"] = ""
    with pytest.raises(DataError, match="nothing can be audited"):
        DataAudit().audit(dataset)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"level": 95}, "level=95"),
        ({"resamples": 10}, "100 or more"),
        ({"folds": 1}, "2 or more"),
        ({"limit": 0}, "1 or more"),
        ({"resize": "stretch"}, "one of squash, crop, pad"),
        ({"label_errors": "maybe"}, "expected true, false or null"),
        ({"duplicate": True}, "did you mean duplicates?"),
    ],
)
def test_a_wrong_option_is_told(options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.build_block("data_audit", options)
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def labelled(n: int = 90) -> tuple[np.ndarray, pd.DataFrame]:
    """Return features that separate the classes, and one label that contradicts them."""
    targets = np.arange(n) % 3
    features = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    features[:, :3] += 6 * np.eye(3, dtype=np.float32)[targets]
    label = np.array(["a", "b", "c"])[targets]
    label[4] = "a"
    path = [f"{row}.png" for row in range(n)]
    return features, pd.DataFrame({"path": path, "label": label, "source": "s", "group": path})


def test_a_wrong_label_is_suspected_first() -> None:
    pytest.importorskip("cleanlab")
    table = data_audit.find_suspects(*labelled(), ProbeSettings())
    assert table.iloc[0][["path", "label", "suggested"]].tolist() == ["4.png", "a", "b"]
    assert table["quality"].iloc[0] < 0.5
    assert len(table) <= 3


def test_label_errors_are_left_out_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = labelled()[1]
    assert data_audit.explain_skip("efficientnet_lite0", frame, False) == Reason("not_requested")
    monkeypatch.setattr(data_audit.importlib.util, "find_spec", lambda name: None)
    assert data_audit.explain_skip("efficientnet_lite0", frame, None) == Reason("no_cleanlab")
    monkeypatch.setattr(data_audit.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path))
    assert data_audit.explain_skip("efficientnet_lite0", frame, None).code == "no_weights"
    assert data_audit.explain_skip("efficientnet_lite0", frame, True) is None
    assert data_audit.explain_skip("efficientnet_lite0", frame.head(6), True) == Reason("few_groups_for_labels", n=5)


def test_a_model_without_package_weights_cannot_look_for_label_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_audit.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ConfigError, match="features=resnet18"):
        data_audit.explain_skip("resnet18", labelled()[1], True)


def test_suspects_are_kept_in_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame({"path": ["x"], "label": ["a"], "source": ["s"], "suggested": ["b"], "quality": [0.1]})
    for name, answer in (("explain_skip", None), ("compute_features", np.zeros((24, 2))), ("find_suspects", table)):
        monkeypatch.setattr(data_audit, name, lambda *given, answer=answer: answer)
    result = DataAudit(equalised=False, resamples=100).audit(planted(tmp_path, {"a": "png", "b": "png"}, n=12))
    assert result.tables["suspects"] is table
    assert result.provenance["label_errors"] == {"code": "suspects", "n": 1, "all": 24}


def test_embeddings_are_those_of_the_frozen_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same image twice has the same features, whatever else is in the batch."""
    import timm

    from avatar_bench.models import backbones

    net = timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=2)
    monkeypatch.setattr(backbones, "create_backbone", lambda *given: net)
    dataset = planted(tmp_path, {"a": "png"}, n=4)
    rows = np.array([0, 1, 2, 3, 0])
    features = data_audit.compute_features(dataset, rows, "efficientnet_lite0")
    assert features.shape == (5, net.num_features)
    assert features[0] == pytest.approx(features[4], abs=1e-5)
    assert not np.allclose(features[0], features[1])


def test_the_audit_loads_no_torch_where_label_errors_are_not_asked() -> None:
    code = "import sys, avatar_bench.evaluation.blocks.data_audit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is missing")
def test_the_sources_of_the_blind_set_tell_its_classes() -> None:
    result = DataAudit(equalised=False, duplicates=False, **FAST).audit(read_manifest(SHARED / "blind.csv"))
    assert result.n == 300
    assert result.provenance["assessment"]["suitable"] == "with_care"
    assert result.metrics["source_auroc"].value > 0.9


def test_the_audit_of_an_external_set_names_the_sources_that_training_has(
    run_copy: Path, images: Path, tmp_path: Path
) -> None:
    sources = pd.read_csv(run_copy / "split.csv")["source"]
    shared = sources.iloc[0]
    blind = pd.read_csv(images / "blind.csv").assign(path=lambda table: [str(images / path) for path in table["path"]])
    blind.loc[:3, "source"] = shared
    blind.to_csv(tmp_path / "blind.csv", index=False)
    record = json.loads((run_copy / "run.json").read_text())
    record["data"]["blind"] = str(tmp_path / "blind.csv")
    (run_copy / "run.json").write_text(json.dumps(record))
    quick = [
        f"block.data_audit.{option}" for option in ("resamples=100", "folds=2", "equalised=false", "label_errors=false")
    ]
    words = [f"ckpt={run_copy}", "block=data_audit", "data.workers=0", "allow=[shortcut]", *quick]
    assert main(["evaluate", *words, "split=blind"]) == 0
    saved = json.loads((run_copy / "evaluation/blind/data_audit/metrics.json").read_text())
    warning = next(each for each in saved["warnings"] if each["code"] == "shared")
    assert (warning["field"], warning["value"], warning["m"]) == ("origin", shared, 4)
    assert warning["n"] == (sources == shared).sum()
    assert main(["evaluate", *words, "split=test"]) == 0
    assert not (run_copy / "evaluation/test/data_audit/shared_provenance.csv").exists()
