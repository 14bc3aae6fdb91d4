"""vary: the images of robustness as files, which a run predicts as robustness does."""

import hashlib
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avatar_bench.data.dataset import read_manifest
from avatar_bench.evaluation.block import build_block
from avatar_bench.runs.run import Run
from tests.builders.commands import data_of, read_result

FEW = ("block.robustness.corruptions=[noise,jpeg,rotation]", "block.robustness.severities=[3,5]")


@pytest.fixture
def vary(images, command):
    """Return a function that varies the blind images, and returns the manifest and what is printed."""

    def run(out, *words, code=0):
        few = [] if any(word.startswith("block") for word in words) else FEW
        printed = command("vary", *data_of(images / "blind.csv"), f"out={out}", *few, *words, code=code)
        return (pd.read_csv(out / "manifest.csv", keep_default_na=False) if code == 0 else None), printed

    return run


def list_files(out):
    return {str(file): file.stat().st_mtime_ns for file in sorted((out / "images").rglob("*")) if file.is_file()}


@pytest.mark.parametrize("at", ["input", "native"])
def test_a_run_predicts_the_files_as_robustness_predicts_its_variations(at, images, run_copy, tmp_path, vary):
    few = ["block.robustness.corruptions=[noise,rotation]", "block.robustness.severities=[3]"]
    few.append("block.robustness.delivery=[webp]")
    table, printed = vary(tmp_path / "out", f"ckpt={run_copy}", f"at={at}", *few)
    assert f"{42 * 4} files, about " in printed.err
    assert f"{42 * 4} files of 42 images" in printed.out
    run, dataset = Run.open(run_copy), read_manifest(images / "blind.csv", "blind")
    options = {"corruptions": ["noise", "rotation"], "severities": [3], "delivery": ["webp"], "at": at}
    variations = build_block("robustness", options).list_variations()
    expected = dict(zip(variations, run.variations(dataset, list(variations.values())), strict=True))
    expected["clean"] = run.predictions(dataset)
    assert set(table["variation"]) == set(expected)
    for name, predictions in expected.items():
        rows = table[table["variation"] == name]
        assert rows["source_sha256"].tolist() == dataset.frame["sha256"].tolist()
        predicted = run.predict([tmp_path / "out" / path for path in rows["path"]], precision="32")
        columns = [f"prob_{label}" for label in run.classes]
        np.testing.assert_allclose(predicted[columns].to_numpy(float), predictions.probabilities, atol=1e-6)


def test_the_manifest_names_each_file_with_its_source(tmp_path, vary):
    table, _ = vary(tmp_path / "out", "size=48", "resize=crop")
    columns = ["path", "label", "source", "group", "split", "date", "released"]
    columns += ["source_path", "source_sha256", "variation"]
    assert table.columns.tolist() == columns
    row = table[table["variation"] == "noise/5"].iloc[3]
    source = tmp_path / "out" / row["source_path"]
    assert hashlib.sha256(source.read_bytes()).hexdigest() == row["source_sha256"]
    labels = read_manifest(tmp_path / "out" / "manifest.csv", "varied").frame["label"]
    assert labels.value_counts().to_dict() == dict.fromkeys(("drawing", "generated", "real"), 14 * 15)
    suffixes = set(zip(table["variation"], table["path"].str.rpartition(".")[2], strict=True))
    expected = {"png": "clean noise/3 delivery/screenshot delivery/avif", "jpg": "jpeg/3 delivery/double_jpeg"}
    for suffix, names in (expected | {"webp": "delivery/webp"}).items():
        assert {(name, suffix) for name in names.split()} <= suffixes
    assert len(suffixes) == table["variation"].nunique()
    with Image.open(tmp_path / "out" / row["path"]) as image:
        assert image.size == (48, 48)


def test_a_killed_set_is_continued_and_no_other_options_are_mixed_in(images, tmp_path, vary, fork, monkeypatch):
    out, replace = tmp_path / "out", Path.replace
    few = [f"block.robustness.{option}" for option in ("corruptions=[noise]", "severities=[3]", "delivery=[webp]")]

    def be_killed(file, target):
        if target.suffix == ".png" and len(list(out.rglob("*.png"))) >= 30:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(file, target)

    words = ["vary", *data_of(images / "blind.csv"), "size=32", *few, f"out={out}"]
    child = fork(*words, before=lambda: monkeypatch.setattr(Path, "replace", be_killed))
    assert child.end() == -signal.SIGKILL
    assert not (out / "manifest.csv").exists()
    left = [file for file in list_files(out) if file.endswith(".part")]
    before = {file: time for file, time in list_files(out).items() if file not in left}
    assert left
    table, printed = vary(out, "size=32", *few)
    assert f"{len(before)} kept from before" in printed.out
    after = list_files(out)
    assert before.items() <= after.items()
    assert not set(left) & set(after)
    whole, _ = vary(tmp_path / "whole", "size=32", *few)
    assert whole["path"].tolist() == table["path"].tolist()
    assert all((out / path).read_bytes() == (tmp_path / "whole" / path).read_bytes() for path in whole["path"])
    vary(out, "size=32", *few)
    err = vary(out, "size=40", *few, code=2)[1].err
    assert "holds variations of other images, or made with other options" in err
    assert list_files(out) == after


@pytest.mark.slow
def test_robustness_of_imported_predictions_is_that_of_their_run(images, run_copy, tmp_path, vary, command):
    out, runs, scores = tmp_path / "out", {"own": run_copy, "theirs": tmp_path / "theirs"}, tmp_path / "scores.csv"
    few = ["block.robustness.corruptions=[colour_filter,round_crop]", "block.robustness.severities=[3,5]"]
    few.append("block.robustness.delivery=[webp]")
    vary(out, f"ckpt={run_copy}", *few)
    words = [f"ckpt={run_copy}", f"input={out / 'images'}", f"output={scores}"]
    command("predict", *words, "precision=32", "runtime=torch", "workers=0")
    pd.read_csv(scores).iloc[1:].to_csv(tmp_path / "part.csv", index=False)
    words = ["import", "kind=predictions", "root=.", f"variations={out / 'manifest.csv'}"]
    err = command(*words, f"file={tmp_path / 'part.csv'}", f"out={tmp_path / 'part'}", code=3).err
    assert "lacks a prediction of some variation of 1 image of vary" in err
    command(*words, f"file={scores}", f"out={runs['theirs']}")
    words = [*data_of(images / "blind.csv"), "data.name=new", "data.workers=0", "block=robustness"]
    for run in runs.values():
        command("evaluate", f"ckpt={run}", *words, "block.robustness.resamples=100", *few)
    ours, theirs = (read_result(run, "new", "robustness")["metrics"] for run in runs.values())
    assert len(ours) == 18
    assert ours.keys() == theirs.keys()
    for name, metric in ours.items():
        for key in ("value", "low", "high", "n"):
            assert theirs[name].get(key) == pytest.approx(metric.get(key), abs=1e-6), (name, key)
    assert ours["round_crop"]["value"] != ours["clean"]["value"]
    assert "which were not imported" in command("evaluate", f"ckpt={runs['theirs']}", *words, code=3).err
