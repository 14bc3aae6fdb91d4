"""Copies of images that chose the epoch of a run, or that it is calibrated on, in an evaluated set."""

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from avatar_bench.cli.app import main
from avatar_bench.results.reasons import Reason, format_reason
from tests.conftest import SOURCES, draw_set

QUICK = (
    *("data.workers=0", "block.blind_test.resamples=100", "block.calibration.resamples=100"),
    *("block.decision.resamples=100", "block.decision.targets=[0.2]"),
)


@pytest.fixture(scope="module")
def run(train, tmp_path_factory):
    """Return a run with enough calibration images for thresholds; never write into it, except evaluation/."""
    root = tmp_path_factory.mktemp("run")
    draw_set(root, "all", 120, SOURCES, seed=5)
    words = [f"data.manifest={root / 'all.csv'}", "data.blind=null", "data.split.folds=3", "epochs=4"]
    return train(root / "run", *words)


@pytest.fixture
def mix(run, images, tmp_path):
    """Return a function that writes a manifest of the blind images and of copies of some images of a split."""

    def write(name, split, n, is_near):
        rows = pd.read_csv(run / "split.csv").query("split == @split").iloc[::2].head(n)[["path", "label", "source"]]
        root = Path(json.loads((run / "run.json").read_text())["data"]["root"])
        for number, path in enumerate(rows["path"]):
            copy = tmp_path / f"{name}{number}{Path(path).suffix}"
            copy.write_bytes((root / path).read_bytes())
            if is_near:
                image = Image.open(copy).convert("RGB")
                image.resize((image.width + 2, image.height + 2)).save(copy.with_suffix(".png"))
        names = [f"{name}{i}{'.png' if is_near else Path(path).suffix}" for i, path in enumerate(rows["path"])]
        blind = pd.read_csv(images / "blind.csv").drop(columns="group")
        blind["path"] = [str(images / path) for path in blind["path"]]
        pd.concat([rows.assign(path=names), blind]).to_csv(tmp_path / f"{name}.csv", index=False)
        return tmp_path / f"{name}.csv"

    return write


def evaluate(run, manifest, block, *words):
    options = [word for word in QUICK if not word.startswith("block") or word.split(".")[1] == block]
    data = ["data=manifest", f"data.manifest={manifest}"]
    return main(["evaluate", f"ckpt={run}", f"block={block}", *data, *options, *words])


@pytest.mark.parametrize(("is_near", "n"), [(False, 5), (True, 4)])
def test_copies_of_val_images_are_counted_in_a_warning(is_near, n, run, mix, capsys):
    name = f"val{n}"
    assert evaluate(run, mix(name, "val", n, is_near), "blind_test") == 0
    saved = json.loads((run / "evaluation" / name / "blind_test" / "metrics.json").read_text())
    warning = Reason("overlap_with_val", n=n, all=42 + n)
    assert warning.plain in saved["warnings"]
    assert warning.plain in saved["provenance"]["leakage"]  # printed however many warnings there are
    assert format_reason(warning) in capsys.readouterr().err


@pytest.mark.parametrize(("is_near", "block"), [(False, "decision"), (True, "calibration")])
def test_what_a_block_is_fitted_on_is_refused_and_so_are_its_near_duplicates(is_near, block, run, mix, capsys):
    manifest = mix(f"{block}{is_near}", "calibration", 3, is_near)
    assert evaluate(run, manifest, block) == 3
    error = capsys.readouterr().err
    printed = "are near-duplicates of calibration images" if is_near else "also in the set that this block is fitted on"
    assert f"3 of 45 images of {manifest.stem} {printed}" in error.replace("are also", "also")
    assert len(error.splitlines()) <= 3
    assert evaluate(run, manifest, block, "allow=[near_duplicates]") == (0 if is_near else 3)


def test_neither_copies_of_test_images_nor_other_sets_are_warned_of(run, mix, capsys):
    assert evaluate(run, mix("other", "test", 3, True), "blind_test") == 0
    assert "val images" not in capsys.readouterr().err
