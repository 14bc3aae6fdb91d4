"""vary: the images of robustness as files, which a run predicts as robustness does."""

import hashlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avatar_bench.cli.app import main
from avatar_bench.data.dataset import Dataset, read_manifest
from avatar_bench.evaluation.block import build_block
from avatar_bench.runs.run import Run

FEW = ("block.robustness.corruptions=[noise,jpeg,rotation]", "block.robustness.severities=[3,5]")


def vary(images, out, *words, code=0):
    data = ("data=manifest", f"data.manifest={images / 'blind.csv'}")
    few = [] if any(word.startswith(("block", "data=")) for word in words) else FEW
    given = [] if "data=run" in words else data
    assert main(["vary", *given, f"out={out}", *few, *words]) == code
    return pd.read_csv(out / "manifest.csv", keep_default_na=False) if code == 0 else pd.DataFrame()


def list_files(out):
    return {str(file): file.stat().st_mtime_ns for file in sorted((out / "images").rglob("*")) if file.is_file()}


@pytest.mark.parametrize("at", ["input", "native"])
def test_a_run_predicts_the_files_as_robustness_predicts_its_variations(at, images, run_copy, tmp_path, capsys):
    few = ("block.robustness.corruptions=[noise,rotation]", "block.robustness.severities=[3]")
    few = (*few, "block.robustness.delivery=[webp]")
    table = vary(images, tmp_path / "out", f"ckpt={run_copy}", f"at={at}", *few)
    printed = capsys.readouterr()
    assert f"{42 * 4} files, about " in printed.err
    assert f"{42 * 4} files of 42 images" in printed.out
    run = Run.open(run_copy)
    dataset = read_manifest(images / "blind.csv", "blind")
    block = build_block(
        "robustness", {"corruptions": ["noise", "rotation"], "severities": [3], "delivery": ["webp"], "at": at}
    )
    variations = block.list_variations()
    found = dict(zip(variations, run.variations(dataset, list(variations.values())), strict=True))
    found["clean"] = run.predictions(dataset)
    assert set(table["variation"]) == set(found)
    for name, expected in found.items():
        rows = table[table["variation"] == name]
        assert rows["source_sha256"].tolist() == dataset.frame["sha256"].tolist()
        predicted = run.predict([tmp_path / "out" / path for path in rows["path"]], precision="32")
        columns = [f"prob_{one}" for one in run.classes]
        np.testing.assert_allclose(predicted[columns].to_numpy(float), expected.probabilities, atol=1e-6)


def test_the_manifest_names_each_file_with_its_source(images, tmp_path):
    table = vary(images, tmp_path / "out", "size=48", "resize=crop")
    columns = ["path", "label", "source", "group", "split", "source_path", "source_sha256", "variation"]
    assert table.columns.tolist() == columns
    row = table[table["variation"] == "noise/5"].iloc[3]
    source = tmp_path / "out" / row["source_path"]
    assert hashlib.sha256(source.read_bytes()).hexdigest() == row["source_sha256"]
    known = read_manifest(tmp_path / "out" / "manifest.csv", "varied").frame
    assert known["label"].value_counts().to_dict() == dict.fromkeys(("drawing", "generated", "real"), 14 * 15)
    kinds = {name: set(map(os.path.splitext, rows["path"])) for name, rows in table.groupby("variation")}
    suffixes = {name: {suffix for __, suffix in found} for name, found in kinds.items()}
    assert (
        suffixes["clean"]
        == suffixes["noise/3"]
        == suffixes["delivery/screenshot"]
        == suffixes["delivery/avif"]
        == {".png"}
    )
    assert suffixes["jpeg/3"] == suffixes["delivery/double_jpeg"] == {".jpg"}
    assert suffixes["delivery/webp"] == {".webp"}
    with Image.open(tmp_path / "out" / row["path"]) as image:
        assert image.size == (48, 48)


def test_an_interrupted_set_is_continued(images, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    decode = Dataset.image

    def fail_late(dataset, row):
        if row == 30 and (out / "images").exists():
            raise KeyboardInterrupt
        return decode(dataset, row)

    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "image", fail_late)
        vary(images, out, "size=32", code=130)
    assert not (out / "manifest.csv").exists()
    assert not list(out.rglob("*.part"))
    before = list_files(out)
    assert before
    vary(images, out, "size=32")
    assert f"{len(before)} kept from before" in capsys.readouterr().out
    after = list_files(out)
    assert before.items() <= after.items()
    whole = vary(images, tmp_path / "whole", "size=32")
    assert whole["path"].tolist() == pd.read_csv(out / "manifest.csv")["path"].tolist()
    assert all((out / path).read_bytes() == (tmp_path / "whole" / path).read_bytes() for path in whole["path"])
    vary(images, out, "size=32")
    assert list_files(out) == after


def test_what_a_killed_process_has_left_is_removed(images, tmp_path, fork, monkeypatch):
    out, replace = tmp_path / "out", Path.replace

    def be_killed(file, target):
        if target.suffix == ".png":
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(file, target)

    words = ["vary", "data=manifest", f"data.manifest={images / 'blind.csv'}", "size=32", *FEW[:1], f"out={out}"]
    child = fork(*words, before=lambda: monkeypatch.setattr(Path, "replace", be_killed))
    assert child.end() == -signal.SIGKILL
    assert list(out.rglob("*.part"))
    assert main(words) == 0
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected ckpt=RUN, size=PIXELS, or at=native"),
        (["size=32", "ckpt=RUN"], "ckpt excludes size and resize"),
        (["size=32", "block=calibration"], "vary writes the images of robustness"),
        (["size=32", "data=run"], "data=run requires ckpt=RUN"),
        (["size=32", "block.robustness.severities=[1]"], "with 3 among them"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(words, message, images, tmp_path, capsys):
    vary(images, tmp_path / "out", *words, code=2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_of_other_options_are_not_mixed(images, tmp_path, capsys):
    vary(images, tmp_path / "out", "size=32")
    vary(images, tmp_path / "out", "size=40", code=2)
    assert "holds variations of other images, or made with other options" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    vary(images, tmp_path / "other", "size=32", code=3)
    assert "holds other files, such as notes.txt" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["notes.txt"]


def test_robustness_of_imported_predictions_is_that_of_their_run(images, run_copy, tmp_path, capsys):
    out, runs = tmp_path / "out", {"own": run_copy, "theirs": tmp_path / "theirs"}
    few = ["block.robustness.corruptions=[colour_filter,round_crop]", "block.robustness.severities=[3,5]"]
    few.append("block.robustness.delivery=[webp]")
    vary(images, out, f"ckpt={run_copy}", *few)
    words = [f"ckpt={run_copy}", f"input={out / 'images'}", f"output={tmp_path / 'scores.csv'}"]
    assert main(["predict", *words, "precision=32", "runtime=torch", "workers=0"]) == 0
    table = pd.read_csv(tmp_path / "scores.csv")
    table.iloc[1:].to_csv(tmp_path / "part.csv", index=False)
    given = ["kind=predictions", "root=.", f"variations={out / 'manifest.csv'}"]
    assert main(["import", *given, f"file={tmp_path / 'part.csv'}", f"out={tmp_path / 'part'}"]) == 3
    assert "lacks a prediction of some variation of 1 image of vary" in capsys.readouterr().err
    assert main(["import", *given, f"file={tmp_path / 'scores.csv'}", f"out={runs['theirs']}"]) == 0
    data = ["data=manifest", f"data.manifest={images / 'blind.csv'}", "data.name=new", "data.workers=0"]
    collected = {}
    for name, run in runs.items():
        block = ["block=robustness", "block.robustness.resamples=100", *few]
        assert main(["evaluate", f"ckpt={run}", *data, *block]) == 0
        text = (run / "evaluation" / "new" / "robustness" / "metrics.json").read_text(encoding="utf-8")
        collected[name] = json.loads(text)["metrics"]
    assert len(collected["own"]) == 18
    assert collected["own"].keys() == collected["theirs"].keys()
    for metric, own in collected["own"].items():
        for key in ("value", "low", "high", "n"):
            assert collected["theirs"][metric].get(key) == pytest.approx(own.get(key), abs=1e-6), (metric, key)
    assert collected["own"]["round_crop"]["value"] != collected["own"]["clean"]["value"]
    capsys.readouterr()
    assert main(["evaluate", f"ckpt={runs['theirs']}", *data, "block=robustness"]) == 3
    assert "which were not imported" in capsys.readouterr().err
